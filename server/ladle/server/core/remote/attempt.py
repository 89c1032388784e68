"""One try to have a version in the cache, and what its end means."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

from ladle.server.core.errors import ServingError
from ladle.server.core.remote.cache import Lease
from ladle.server.core.remote.download import CancelledDownload
from ladle.server.core.remote.fetching import BeingFetched, NotWhole, Wanted, fetch
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.problems import Problem
from ladle.server.core.remote.record import is_whole, read_record
from ladle.server.core.remote.version import RemoteVersion
from ladle.server.core.sources.version_policy import VersionPolicy, aspired
from ladle.store.errors import Changed, StoreError
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a try has ended."""

    lease: Lease | None = None
    problem: Problem | None = None
    """None if all went well, or nobody wanted it any more."""
    waits: bool = False
    """Whether it failed for no fault: another server is at it, or the store has other files now."""
    is_outdated: bool = False
    """Whether the store has to be listed again."""


def attempt(
    wanted: Wanted, model: str, options: RemoteOptions, is_cancelled: Callable[[], bool]
) -> Outcome:
    """Try to have a version in the cache, and note it. Blocks."""
    began = options.clock.now()
    nbytes = 0
    try:
        lease, nbytes = fetch(
            wanted,
            options.cache,
            options.open_store(wanted.base),
            options.check,
            threads=options.threads,
            is_cancelled=is_cancelled,
        )
    except CancelledDownload:
        return Outcome()
    except BeingFetched as error:
        return Outcome(problem=Problem(str(error), False), waits=True)
    except Changed as error:
        return Outcome(problem=Problem(str(error), False), waits=True, is_outdated=True)
    except Exception as error:
        outcome = Outcome(problem=_problem(error))
        if not isinstance(error, (StoreError, ServingError, NotWhole, OSError)):
            logger.exception("model %s: version %d can't be fetched", model, wanted.version)
    else:
        outcome = Outcome(lease)
    what = "failed" if outcome.lease is None else "downloaded" if nbytes else "cached"
    options.notes.fetched(model, nbytes, options.clock.now() - began, what)
    return outcome


def recall(
    base: StoreUrl, policy: VersionPolicy, options: RemoteOptions, *, keeps_labelled: bool
) -> tuple[dict[int, RemoteVersion], dict[str, int]]:
    """Return the wanted versions that the cache has whole, and the labels of the last look.

    Blocks while their files are read. The versions hold claims on the cache.
    """
    recalled = options.cache.recall(base)
    if recalled is None:
        return {}, {}
    taken: dict[int, RemoteVersion] = {}

    def is_there(version: int) -> bool:
        fingerprint = recalled.versions[version]
        path = options.cache.path(base, version, fingerprint)
        lease = options.cache.lease(path)
        if lease is None:
            return False
        record = read_record(path)
        if not record or not is_whole(path, record.values(), record):
            lease.release()
            return False
        known = RemoteVersion(str(version), is_confirmed=False, is_wanted=True)
        known.take(lease, fingerprint)
        taken[version] = known
        return True

    folders = {version: str(version) for version in recalled.versions}
    labelled = recalled.labels.values() if keeps_labelled else ()
    aspired(folders, policy, is_there, labelled)
    return taken, dict(recalled.labels)


def _problem(error: Exception) -> Problem:
    match error:
        case NotWhole():
            return Problem(f"it is not whole: {error}", True)
        case StoreError():
            return Problem(str(error), error.is_final)
        case ServingError():
            return Problem(error.message, True)
        case OSError():
            return Problem(f"the cache can't be written: {error.strerror or error}", False)
        case _:
            return Problem(f"it can't be fetched: {error}", False)
