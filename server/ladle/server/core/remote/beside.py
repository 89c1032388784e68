"""What lies beside a model's versions in a store, and says how they are served: kept in the cache.

It is a file, and those that it names. On a disk they lie in the folder that holds the versions, and
so they do in the cache.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from ladle.server.core.remote.cache import Cache
from ladle.store.errors import Absent, Changed
from ladle.store.store import Listing, Store, read_small
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

_MOST_FILES = 256
_MOST_FILE_BYTES = 256 << 20
_MOST_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What is read from beside the versions."""

    config: str
    """The name of the file that says how they are served."""
    named: Callable[[bytes, str], Collection[str]]
    """Returns the files that its content names, as paths from the folder of the versions.

    The second argument is that folder's name.
    """


def keep_beside(
    beside: Beside,
    store: Store,
    base: StoreUrl,
    listing: Listing,
    cache: Cache,
    known: Mapping[str, str] | None,
) -> Mapping[str, str] | None:
    """Have the files in the cache as the store has them; return what they were when they were read.

    That is each file's etag by name. It is `known` where nothing has changed, or where a file can't
    be read now: what the cache has stays. Blocks.

    Args:
        beside: which files.
        store: has them.
        base: where the versions are.
        listing: what lies directly there.
        cache: gets copies.
        known: what the last call returned; None before the first.

    Raises:
        StoreError: The store does not say.
    """
    now = {stored.key.rpartition("/")[2]: stored.etag for stored in listing.objects}
    if beside.config not in now:
        # A store that shows nothing at all may do so by mistake.
        if known != {} and (listing.objects or listing.folders):
            cache.forget_beside(base, beside.config)
            return {}
        return known
    if known and all(now.get(name, etag) == etag for name, etag in known.items()):
        # Files in folders of their own are in no such listing.
        return known
    try:
        files = dict(_read(beside, store, base))
        for name, (_, data) in files.items():
            if data is None:
                cache.forget_beside(base, name)
        there = {name: data for name, (_, data) in files.items() if data is not None}
        cache.keep_beside(base, there)
    except ValueError as error:
        logger.warning("%s beside the versions can't be read: %s", base / beside.config, error)
        return known
    except OSError as error:
        logger.warning("what lies beside the versions of %s can't be kept: %s", base, error)
        return known
    except Changed:
        return known  # the next look reads them
    return {name: etag for name, (etag, _) in files.items()}


def _read(
    beside: Beside, store: Store, base: StoreUrl
) -> Iterator[tuple[str, tuple[str, bytes | None]]]:
    """Yield each file's name, etag and content; the one that names the others comes last.

    A file that is not there has no content: who loads a version says what it lacks.
    """
    stored, text = read_small(store, (base / beside.config).path, most=_MOST_CONFIG_BYTES)
    names = sorted(beside.named(text, base.name))
    if len(names) > _MOST_FILES:
        raise ValueError(f"expected at most {_MOST_FILES} files, got {len(names)}")
    for name in names:
        try:
            found, data = read_small(store, (base / name).path, most=_MOST_FILE_BYTES)
        except Absent:
            yield name, ("", None)
            continue
        yield name, (found.etag, data)
    yield beside.config, (stored.etag, text)
