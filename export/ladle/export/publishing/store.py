"""Publish a version in a store, where nothing can be renamed.

A claim is written first, if there is none: so two publishers get two numbers. Then come the files,
and last the manifest, which makes the version count. Whoever ends the publisher before, even by
SIGKILL, leaves a version that no server of ladle's takes. What TensorFlow looks for,
saved_model.pb, comes after all other files: so who copies a version as it grows, and knows no
manifest, has all of it once that is there.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from ladle.export.errors import PublishError
from ladle.export.publishing.publish import MAX_ATTEMPTS
from ladle.export.publishing.versions import next_version
from ladle.protos.files.versions import HIDDEN_PREFIX, version_of
from ladle.protos.model_card import CARD_PATH, MAX_CARD_BYTES, ModelCard
from ladle.store.errors import Absent, StoreError, Taken
from ladle.store.layout import CLAIM_NAME, MANIFEST_NAME, MAX_FILES, file_of, write_manifest
from ladle.store.store import Listing, Store, put_own, read_small
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

_PROBE_PREFIX = ".ladle-probe-"
_UPLOADS_AT_A_TIME = 8
_GRAPH = "saved_model.pb"


class Placed(NamedTuple):
    """A version that servers can load."""

    version: int
    place: Path | StoreUrl


class StoreDestination:
    """A place in a store."""

    def __init__(self, base: StoreUrl, store: Store) -> None:
        """Take the base of the versions, and its bucket."""
        self._base = base
        self._store = store

    @property
    def model_name(self) -> str:
        """The last part of the path."""
        return self._base.name

    def prepare(self) -> None:
        """See that versions can be written there, and that the store can claim a number.

        Raises:
            PublishError: They can't.
        """
        with _as_publish_errors():
            listing = self._store.list_folder(self._base.path)
            if any(stored.key == self._key(_GRAPH) for stored in listing.objects):
                raise PublishError(
                    f"{self._base}: expected a model's base path, which holds numbered versions;"
                    f" this is a version itself, as it holds {_GRAPH}"
                )
            probe = self._key(f"{_PROBE_PREFIX}{secrets.token_hex(8)}")
            self._store.put(probe, b"", if_absent=True)
            try:
                self._store.put(probe, b"", if_absent=True)
            except Taken:
                pass
            else:
                raise PublishError(
                    f"{self._base}: the store overwrites what it shall only create: it knows no"
                    " If-None-Match, and two publishers could get one number"
                )
            finally:
                with suppress(StoreError):
                    self._store.delete(probe)

    def check_free(self, version: int) -> None:
        """Refuse a number that is taken.

        Raises:
            PublishError: It is, or the store does not say.
        """
        with _as_publish_errors():
            for name in _taken_names(self._store.list_folder(self._base.path)):
                if version_of(name) == version:
                    raise self._taken(version, name)

    def now_serving(self) -> tuple[int, ModelCard] | None:
        """Return the highest version in sight that has a model card.

        Raises:
            PublishError: The store does not say.
        """
        with _as_publish_errors():
            listing = self._store.list_folder(self._base.path)
            names = {stored.key.rpartition("/")[2] for stored in listing.objects}
            folders = {v: name for name in listing.folders if (v := version_of(name)) is not None}
            for version, name in sorted(folders.items(), reverse=True):
                if f"{HIDDEN_PREFIX}{version}" in names:
                    continue
                card = self._card(name)
                if card is not None:
                    return version, card
        return None

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder on this machine's disk; it is removed on leaving."""
        self.prepare()
        with tempfile.TemporaryDirectory(prefix="ladle-export-") as folder:
            yield Path(folder)

    def publish(self, staged: Path, version: int | None = None) -> Placed:
        """Upload the folder as a version. Blocks until the store has all of it.

        Raises:
            PublishError: The number is taken or can't be had, or the store refuses.
        """
        paths = sorted(
            path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()
        )
        if not paths:
            raise PublishError(f"{self._base}: there is nothing to publish in {staged.name}")
        if len(paths) > MAX_FILES:
            raise PublishError(
                f"{self._base}: expected at most {MAX_FILES} files, got {len(paths)}: servers "
                "take no version with more"
            )
        with _as_publish_errors():
            number = self._claim_next() if version is None else self._claim(version)
            written = [CLAIM_NAME]
            try:
                self._upload(staged, number, paths, written)
            except BaseException:
                self._remove(number, written)
                raise
        return Placed(number, self._base / str(number))

    def _upload(self, staged: Path, number: int, paths: list[str], written: list[str]) -> None:
        files = [file_of(staged, path) for path in paths]
        first = [path for path in paths if path != _GRAPH]

        def upload(path: str) -> None:
            written.append(path)
            self._store.upload(self._key(f"{number}/{path}"), staged / path)

        with ThreadPoolExecutor(_UPLOADS_AT_A_TIME) as pool:
            for _ in pool.map(upload, first):
                pass
        if len(first) < len(paths):
            upload(_GRAPH)
        manifest = write_manifest(files, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        # A put that fails may have been done all the same. The claim keeps others away.
        written.append(MANIFEST_NAME)
        self._store.put(self._key(f"{number}/{MANIFEST_NAME}"), manifest)

    def _claim(self, version: int) -> int:
        self.check_free(version)
        try:
            self._put_claim(version)
        except Taken:
            raise self._taken(version, str(version)) from None
        return version

    def _claim_next(self) -> int:
        for _ in range(MAX_ATTEMPTS):
            try:
                version = next_version(_taken_names(self._store.list_folder(self._base.path)))
            except OverflowError as error:
                raise PublishError(f"{self._base}: no version number is left: {error}") from error
            try:
                self._put_claim(version)
            except Taken:
                continue
            return version
        raise PublishError(f"{self._base}: other publishers took {MAX_ATTEMPTS} numbers first")

    def _put_claim(self, version: int) -> None:
        told = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "claim": secrets.token_hex(8),
        }
        claim = json.dumps(told).encode()
        put_own(self._store, self._key(f"{version}/{CLAIM_NAME}"), claim, if_absent=True)

    def _remove(self, version: int, written: list[str]) -> None:
        """Remove what was uploaded, the claim last; what stays is no version."""
        for path in reversed(written):
            try:
                self._store.delete(self._key(f"{version}/{path}"))
            except StoreError as error:
                logger.warning(
                    "an unfinished version stays at %s/%d: %s", *(self._base, version, error)
                )
                return

    def _card(self, folder_name: str) -> ModelCard | None:
        try:
            key = self._key(f"{folder_name}/{CARD_PATH}")
            return ModelCard.from_json(read_small(self._store, key, most=MAX_CARD_BYTES)[1])
        except (Absent, ValueError):
            return None

    def _key(self, name: str) -> str:
        return (self._base / name).path

    def _taken(self, version: int, name: str) -> PublishError:
        return PublishError(
            f"{self._base}: version {version} is there already ({name}), and a version is never"
            " overwritten"
        )


def _taken_names(listing: Listing) -> list[str]:
    """Return what may have a number; a version out of sight keeps its own."""
    names = [stored.key.rpartition("/")[2] for stored in listing.objects]
    return [name.removeprefix(HIDDEN_PREFIX) for name in [*listing.folders, *names]]


@contextmanager
def _as_publish_errors() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        raise PublishError(str(error)) from error
    except OSError as error:
        raise PublishError(f"cannot publish: {error.strerror or error}") from error
