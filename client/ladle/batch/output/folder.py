"""The folder that predictions are written to: whole shards, a manifest, and nothing by halves.

Files are written under names that begin with a dot, synced, and renamed; the manifest, replaced in
the same way, then says that they count. Whatever isn't in the manifest is of a run that was cut
off, and is removed by the next.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeAlias

from ladle.batch.errors import BatchError
from ladle.batch.output.manifest import FILE_NAME, Manifest, Shard
from ladle.batch.rows import Answered, FailedRow
from ladle.batch.writers import names
from ladle.batch.writers.writer import MakeWriter, Writer

OnStep: TypeAlias = "Callable[[str], None]"
"""Called with the name of each step that has been taken; what it raises ends the run there."""

_LOCK = "_lock"
_OURS = re.compile(r"(part|_failed)-\d{5,}\..+|\..+\.tmp")


class OutputFolder:
    """A folder that one process at a time writes to; a context manager.

    Raises:
        BatchError: The folder holds something else, or another process writes to it.
        OSError: It can't be made or written to.
    """

    def __init__(self, path: Path, on_step: OnStep = lambda step: None) -> None:
        self.path = path
        self._on_step = on_step
        path.mkdir(parents=True, exist_ok=True)
        self.check()  # nothing is left in what is somebody else's, not even a lock
        self._lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise BatchError(f"{path}: another process is writing to it") from None
            raise BatchError(
                f"{path}: expected a file system with locks, which keep two processes from "
                f"writing to it at once: {error.strerror}"
            ) from None

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def read(self) -> Manifest | None:
        """Return the manifest; None in a folder that is empty.

        Raises:
            BatchError: The folder has no manifest but other files, or it can't be read.
        """
        self.check()
        try:
            return Manifest.from_json((self.path / FILE_NAME).read_bytes())
        except FileNotFoundError:
            return None
        except BatchError as error:
            raise BatchError(f"{self.path}: {error}; --restart begins anew") from None

    def check(self) -> None:
        """See that the folder is empty, or one of ladle predict.

        Raises:
            BatchError: It is neither. The manifest is the first file here, and the last to go.
        """
        names = set(os.listdir(self.path)) - {_LOCK, _temporary(FILE_NAME)}
        if names and FILE_NAME not in names:
            raise BatchError(
                f"{self.path}: expected an empty folder or one of ladle predict, found "
                f'"{min(names)}" in it'
            )

    def save(self, manifest: Manifest) -> None:
        """Put a manifest in the place of the one before."""
        temporary = self.path / _temporary(FILE_NAME)
        with temporary.open("wb") as file:
            file.write(manifest.to_json().encode())
            sync(file)
        self._on_step("manifest written")
        os.replace(temporary, self.path / FILE_NAME)
        self.sync_names()
        self._on_step("manifest in place")

    def remove_leftovers(self, manifest: Manifest) -> None:
        """Remove the shards that the manifest doesn't count."""
        counted = {name for shard in manifest.shards for name in shard.files}
        for name in os.listdir(self.path):
            if _OURS.fullmatch(name) and name not in counted:
                (self.path / name).unlink(missing_ok=True)

    def open_shard(self, index: int, start: int, make_writer: MakeWriter) -> ShardFiles:
        """Begin the shard with that index, whose first row is number `start`."""
        return ShardFiles(self, index, start, make_writer, self._on_step)

    def sync_names(self) -> None:
        """Have the disk hold the names of the files as they are now."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class ShardFiles:
    """A shard that is being written."""

    def __init__(
        self,
        folder: OutputFolder,
        index: int,
        start: int,
        make_writer: MakeWriter,
        on_step: OnStep,
    ) -> None:
        self.start = self.stop = start
        self._folder = folder
        self._index = index
        self._on_step = on_step
        self._make_writer = make_writer
        self._writer: Writer | None = None
        self._files: dict[str, BinaryIO] = {}
        self._outputs: tuple[str, ...] = ()
        self._failures: BinaryIO | None = None
        self._failed = 0
        self._versions: set[int] = set()

    def write(self, answered: Answered) -> None:
        """Take over rows that follow those before."""
        assert answered.start == self.stop, f"{answered.start} does not follow {self.stop}"
        self.stop = answered.stop
        for failed in answered.failed:
            self._write_failure(failed)
        if len(answered.numbers):
            outputs = tuple(answered.outputs)
            if self._writer is None:
                names.check(answered.kept, outputs)
                self._outputs = outputs
                stem = f"part-{self._number}"
                self._writer = self._make_writer(lambda rest: self._open(stem + rest))
            if outputs != self._outputs:
                raise BatchError(
                    f"the model's outputs were {', '.join(self._outputs)} before, and are "
                    f"{', '.join(outputs)} now"
                )
            self._writer.write(answered)
            if answered.version is not None:
                self._versions.add(answered.version)
        self._on_step("rows written")

    def finish(self) -> Shard:
        """Put the files in their place, and return what the manifest says of them."""
        if self._writer is not None:
            self._writer.close()
        for file in self._files.values():
            sync(file)
            file.close()
        self._on_step("shard written")
        for name in self._files:
            os.replace(self._path(name), self._folder.path / name)
            self._on_step("shard in place")
        self._folder.sync_names()  # before the manifest counts them
        return Shard(
            files=tuple(sorted(self._files)),
            start=self.start,
            stop=self.stop,
            failed=self._failed,
            versions=tuple(sorted(self._versions)),
        )

    def close(self) -> None:
        """Close the files, and leave them where they are."""
        if self._writer is not None:
            with suppress(OSError, ValueError, BatchError):
                self._writer.close()  # some writers write to their file when they are collected
        for file in self._files.values():
            with suppress(OSError):  # a full disk doesn't take what the buffer still holds
                file.close()

    def discard(self) -> None:
        """Close and remove the files."""
        self.close()
        for name in self._files:
            self._path(name).unlink(missing_ok=True)

    def _write_failure(self, failed: FailedRow) -> None:
        if self._failures is None:
            self._failures = self._open(f"_failed-{self._number}.jsonl")
        told = {"row": failed.row, "code": failed.code, "reason": failed.reason}
        line = json.dumps(told, ensure_ascii=False)
        # What UTF-8 can't say, as in names of files, stands there as JSON has it.
        self._failures.write(line.encode(errors="backslashreplace") + b"\n")
        self._failed += 1

    @property
    def _number(self) -> str:
        return f"{self._index:05}"

    def _open(self, name: str) -> BinaryIO:
        # Names that differ in their case alone are one file to some systems.
        if name.casefold() in {other.casefold() for other in self._files}:
            raise BatchError(
                f"two columns of the output would both be {name}; leave one out with --keep or "
                "--outputs"
            )
        self._files[name] = self._path(name).open("wb")
        return self._files[name]

    def _path(self, name: str) -> Path:
        return self._folder.path / _temporary(name)


def _temporary(name: str) -> str:
    return f".{name}.tmp"


def sync(file: BinaryIO) -> None:
    """Have the disk hold everything that was written to a file."""
    file.flush()
    os.fsync(file.fileno())
