"""Fetches the files of a version into a folder, and goes on where an earlier try has ended.

Threads fetch parts ahead, a bounded number; one thread writes them in order, and reckons checksums
as it writes. So memory holds a few parts, and what lies on the disk is always the beginning of a
file. Nothing waits for the disk: whoever goes on after a crash checks what is there.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ladle.server.core.remote.record import read_record, write_record
from ladle.store.errors import Unreachable
from ladle.store.layout import RECORD_NAME, VersionFile
from ladle.store.store import Store

PART_BYTES = 16 << 20
# After so much of a file it is recorded how far it has come.
MARK_BYTES = 128 << 20
_HASHED_AT_ONCE = 1 << 20


class CancelledDownload(Exception):
    """Nobody wants the version any more."""


class Part(NamedTuple):
    """Bytes of a file, from `start` to before `end`."""

    file: VersionFile
    start: int
    end: int


def parts_of(file: VersionFile, start: int, part_bytes: int) -> list[Part]:
    """Return what is to be fetched of a file whose first `start` bytes are there."""
    return [
        Part(file, at, min(at + part_bytes, file.size))
        for at in range(start, file.size, part_bytes)
    ]


def download(
    store: Store,
    prefix: str,
    files: Sequence[VersionFile],
    folder: Path,
    *,
    threads: int,
    is_cancelled: Callable[[], bool] = lambda: False,
    part_bytes: int = PART_BYTES,
) -> int:
    """Fetch what is missing; return how many bytes that was. Blocks.

    Each read names the etag of the listing: a file that is replaced meanwhile ends the download.

    Args:
        store: where the files are.
        prefix: the version's, in the store.
        files: all of its files.
        folder: where to; exists, and nobody else writes there.
        threads: how many parts are fetched at a time; two more may wait in memory.
        is_cancelled: whether to give up, asked before each part.
        part_bytes: how much is fetched at once.

    Raises:
        StoreError: The store does not give the files; what came stays for another try.
        CancelledDownload: `is_cancelled` said so.
        OSError: The disk refuses.
    """
    with _Writer(folder, files) as writer:
        todo = [part for file in files for part in parts_of(file, writer.begin(file), part_bytes)]
        fetcher = _Fetcher(store, prefix, todo, threads)
        try:
            for number, part in enumerate(todo):
                if is_cancelled():
                    raise CancelledDownload
                writer.append(part, fetcher.take(number))
        finally:
            fetcher.stop()
    return sum(part.end - part.start for part in todo)


class _Writer:
    """Writes files, each from where it had come to."""

    def __init__(self, folder: Path, files: Iterable[VersionFile]) -> None:
        self._folder = folder
        self._record = read_record(folder)
        self._digests: dict[str, Any] = {}  # hashlib's objects
        self._open: tuple[str, BinaryIO] | None = None
        _remove_others(folder, {file.path for file in files})

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self, file: VersionFile) -> int:
        """Return how many bytes of a file are there and right; the rest is cut off."""
        path = self._folder / file.path
        known = self._record.pop(file.path, None)
        if known is not None and known.etag == file.etag and known.size <= file.size:
            digest = _digest_of(path, known.size)
            is_right = digest is not None and digest.hexdigest() == known.sha256
            if is_right and known.size == file.size and file.sha256 not in ("", known.sha256):
                is_right = False
            if is_right:
                os.truncate(path, known.size)
                self._digests[file.path] = digest
                self._record[file.path] = known
                return known.size
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self._digests[file.path] = hashlib.sha256()
        if not file.size:
            self._keep(file, 0)
        return 0

    def append(self, part: Part, data: memoryview) -> None:
        """Write the next bytes of a file."""
        file = part.file
        if self._open is None or self._open[0] != file.path:
            self._close()
            self._open = file.path, (self._folder / file.path).open("ab")
        out = self._open[1]
        out.write(data)
        self._digests[file.path].update(data)
        if part.end == file.size or part.end // MARK_BYTES > part.start // MARK_BYTES:
            out.flush()
            self._keep(file, part.end)

    def _keep(self, file: VersionFile, size: int) -> None:
        """Record how far a file has come."""
        sha256 = self._digests[file.path].hexdigest()
        if size == file.size and file.sha256 not in ("", sha256):
            self._close()
            (self._folder / file.path).unlink()
            raise Unreachable(f"{file.path}: the store sent other bytes than the manifest says")
        self._record[file.path] = file._replace(size=size, sha256=sha256)
        write_record(self._folder, self._record.values())

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


class _Fetcher:
    """Fetches parts in threads, ahead of who takes them in order."""

    def __init__(self, store: Store, prefix: str, todo: Sequence[Part], threads: int) -> None:
        self._store = store
        self._prefix = prefix
        self._todo = todo
        self._ahead = threads + 2
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._next = 0
        self._taken = 0
        self._came: dict[int, memoryview | Exception] = {}
        self._stopped = False
        for started in range(min(threads, len(todo))):
            try:
                threading.Thread(target=self._work, name="download", daemon=True).start()
            except RuntimeError:  # the system has no room for more
                if not started:
                    raise
                break

    def take(self, number: int) -> memoryview:
        """Return a part; parts are taken in their order. Blocks until it has come.

        Raises:
            Exception: What fetching it has raised.
        """
        with self._changed:
            while number not in self._came:
                self._changed.wait()
            came = self._came.pop(number)
            self._taken = number + 1
            self._changed.notify_all()
        if isinstance(came, Exception):
            raise came
        return came

    def stop(self) -> None:
        """Begin no further part; those under way are left to themselves."""
        with self._changed:
            self._stopped = True
            self._came.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and self._next >= self._taken + self._ahead:
                    self._changed.wait()
                if self._stopped or self._next == len(self._todo):
                    return
                number = self._next
                self._next += 1
            file, start, end = self._todo[number]
            came: memoryview | Exception
            try:
                came = self._store.get(
                    f"{self._prefix}/{file.path}", start=start, end=end, if_match=file.etag
                )
                if len(came) != end - start:
                    came = Unreachable(
                        f"{file.path}: expected {end - start} bytes, the store sent {len(came)}"
                    )
            except Exception as error:
                came = error
            with self._changed:
                if not self._stopped:
                    self._came[number] = came
                    self._changed.notify_all()


def _digest_of(path: Path, size: int) -> Any:
    """Return hashlib's object of the first `size` bytes of a file; None if it has fewer."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while size and (chunk := file.read(min(size, _HASHED_AT_ONCE))):
                digest.update(chunk)
                size -= len(chunk)
    except OSError:
        return None
    return None if size else digest


def _remove_others(folder: Path, paths: set[str]) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if relative not in paths and relative != RECORD_NAME:
                path.unlink()
