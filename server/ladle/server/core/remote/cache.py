"""Versions on the disk that came from stores. Servers on one machine may share a folder.

    ROOT/<base>/<version>-<fingerprint>/           a whole version, renamed into place
    ROOT/<base>/listing.json                       what the store had when it was last asked
    ROOT/<base>/...                                what lies beside the versions there
    ROOT/<base>/.ladle-folder                      the name of the folder in the store
    ROOT/partial/<base>-<version>-<fingerprint>/   one on its way; who has its lock writes there

<base> are sixteen digits of the URL's SHA-256. A folder that somebody needs has a shared lock on it
(flock); who wants to remove it needs that lock alone, and passes on otherwise.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from ladle.protos.files.versions import FOLDER_NAME
from ladle.server.core.errors import ResourceExhausted
from ladle.server.core.remote.record import read_record
from ladle.server.core.servable_id import ServableId
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

M = TypeVar("M")

_PARTIAL = "partial"
_TRASH = "trash-"
_LISTING = "listing.json"
_VERSION = re.compile(r"\d{1,19}-")


class Known(NamedTuple):
    """What a store had when it was last asked."""

    versions: Mapping[int, str]
    """The versions that were taken, each with the fingerprint of its files."""
    labels: Mapping[str, int]


class Lease:
    """A claim on a folder of the cache: nobody removes it before `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    def share(self) -> None:
        """Go on with a claim that others may have too."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        """Give the claim up; again has no effect."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Cache:
    """The folder. Thread-safe, and safe beside other processes."""

    def __init__(self, root: Path, max_bytes: int = 0) -> None:
        """Take where it is; nothing is made before `start`.

        Args:
            root: the folder.
            max_bytes: how much may lie there; 0 is half of what is free at `start`.
        """
        self.root = root
        self.max_bytes = max_bytes
        self._room = threading.Lock()
        self._reserved: dict[Path, int] = {}  # guarded by _room

    def start(self) -> None:
        """Make the folder, and remove what a process that was killed has left half removed.

        Raises:
            OSError: It can't be made or written.
        """
        (self.root / _PARTIAL).mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in self.root.glob(f"{_TRASH}*"):
            shutil.rmtree(path, ignore_errors=True)
        if not self.max_bytes:
            self.max_bytes = (shutil.disk_usage(self.root).free + self.used_bytes()) // 2

    def path(self, base: StoreUrl, version: int, fingerprint: str) -> Path:
        """Return where a version lies once it is whole."""
        return self.root / _key(base) / f"{version}-{fingerprint}"

    def partial_path(self, base: StoreUrl, version: int, fingerprint: str) -> Path:
        """Return where a version lies until then."""
        return self.root / _PARTIAL / f"{_key(base)}-{version}-{fingerprint}"

    def lease(self, path: Path) -> Lease | None:
        """Return a shared claim on a folder; None if it is not there, or is being removed."""
        return self._lock(path, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def lease_alone(self, path: Path) -> Lease | None:
        """Return a claim on a folder that nobody else has; None if somebody does."""
        return self._lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def move(self, lease: Lease, target: Path) -> None:
        """Rename a folder that is claimed alone to where nothing lies, and share the claim.

        Raises:
            OSError: Something lies there, or the disk refuses.
        """
        target.parent.mkdir(exist_ok=True, mode=0o700)
        lease.path.rename(target)
        lease.path = target
        lease.share()

    def reserve(self, path: Path, size: int) -> None:
        """Keep room for a folder, removing what nobody needs, the least recently used first.

        Args:
            path: the folder; what it holds already is a part of `size`.
            size: bytes that it will have; 0 gives the room back that it does not use.

        Raises:
            ResourceExhausted: There is not enough.
        """
        with self._room:
            self._reserved.pop(path, None)
            if not size:
                return
            entries = [entry for entry in self._entries() if entry.path != path]
            used = sum(max(entry.size, self._reserved.get(entry.path, 0)) for entry in entries)
            used += sum(n for p, n in self._reserved.items() if not p.exists())
            for entry in sorted(entries, key=lambda entry: entry.used_s):
                if used + size <= self.max_bytes:
                    break
                if entry.path not in self._reserved and self.remove(entry.path):
                    used -= entry.size
            if used + size > self.max_bytes:
                raise ResourceExhausted(
                    f"it needs {size} bytes, and --model_cache_bytes={self.max_bytes} leaves "
                    f"{max(0, self.max_bytes - used)} beside what is needed"
                )
            self._reserved[path] = size

    def used_bytes(self) -> int:
        """Return how much lies there."""
        return sum(entry.size for entry in self._entries())

    def remove(self, path: Path) -> bool:
        """Remove a folder unless somebody has a claim on it; whether it is gone."""
        lease = self.lease_alone(path)
        if lease is None:
            return not path.exists()
        grave = self.root / f"{_TRASH}{secrets.token_hex(8)}"
        try:
            path.rename(grave)
        except OSError as error:
            logger.warning("%s can't be removed: %s", path, error)
            return False
        finally:
            lease.release()
        shutil.rmtree(grave, ignore_errors=True)
        return True

    def remember(self, base: StoreUrl, known: Known) -> None:
        """Keep what the store has, for a start without the store; errors are logged."""
        folder = self.root / _key(base)
        text = json.dumps(
            {
                "url": str(base),
                "versions": {str(version): name for version, name in known.versions.items()},
                "labels": dict(known.labels),
            },
            sort_keys=True,
        )
        staged = folder / f"{_LISTING}.{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            staged.write_text(text)
            staged.replace(folder / _LISTING)
        except OSError as error:
            staged.unlink(missing_ok=True)
            logger.warning("the listing of %s can't be kept: %s", base, error)

    def recall(self, base: StoreUrl) -> Known | None:
        """Return what the store had when it was last asked; None if that is not known."""
        try:
            told = json.loads((self.root / _key(base) / _LISTING).read_text())
            match told:
                case {"url": url, "versions": {**versions}, "labels": {**labels}} if url == str(
                    base
                ):
                    return Known(
                        {int(str(v)): str(name) for v, name in versions.items()},
                        {str(label): int(str(v)) for label, v in labels.items()},
                    )
        except (OSError, ValueError, TypeError):
            pass
        return None

    def keep_beside(self, base: StoreUrl, files: Mapping[str, bytes]) -> None:
        """Keep what lies beside the versions, in this order; each file is replaced whole.

        Raises:
            OSError: The disk refuses.
            ValueError: A name leads out of the folder.
        """
        folder = self.root / _key(base)
        for name, data in {FOLDER_NAME: base.name.encode(), **files}.items():
            path = folder / name
            if not path.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"expected a file in the model's own folder, got {name!r}")
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            staged = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            try:
                staged.write_bytes(data)
                staged.replace(path)
            except OSError:
                staged.unlink(missing_ok=True)
                raise

    def forget_beside(self, base: StoreUrl, name: str) -> None:
        """Remove a file from beside the versions; it may not be there."""
        with suppress(OSError):
            (self.root / _key(base) / name).unlink()

    def holding(self, load: Callable[[ServableId, Path], M]) -> Callable[[ServableId, Path], M]:
        """Return `load`, during which nobody removes the version's folder."""

        def load_held(servable_id: ServableId, path: Path) -> M:
            if not path.is_relative_to(self.root):
                return load(servable_id, path)
            with self._held(path):
                return load(servable_id, path)

        return load_held

    @contextmanager
    def _held(self, path: Path) -> Iterator[None]:
        lease = self.lease(path)
        try:
            if lease is not None:
                with suppress(OSError):
                    os.utime(path)  # for the order in which versions are removed
            yield
        finally:
            if lease is not None:
                lease.release()

    def _lock(self, path: Path, how: int) -> Lease | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, how)
            # Somebody may have renamed it before the lock was had.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return Lease(path, descriptor)
        except OSError:
            pass
        os.close(descriptor)
        return None

    def _entries(self) -> list[_Entry]:
        found = []
        for base in self.root.iterdir():
            if base.name.startswith(_TRASH) or not base.is_dir():
                continue
            for path in base.iterdir():
                if base.name != _PARTIAL and not _VERSION.match(path.name):
                    continue  # what lies beside the versions
                with suppress(OSError):
                    if path.is_dir():
                        size = (
                            _size(path)
                            if base.name == _PARTIAL
                            else sum(file.size for file in read_record(path).values())
                        )
                        found.append(_Entry(path, size, path.stat().st_mtime))
        return found


class _Entry(NamedTuple):
    path: Path
    size: int
    used_s: float


def _key(base: StoreUrl) -> str:
    return hashlib.sha256(str(base).encode()).hexdigest()[:16]


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
