"""The folder that holds the predictions: whole shards, and a manifest that counts them.

While files are written, their names begin with a dot. Then they are synced and renamed, and the
manifest, replaced in the same way, counts them. Files that the manifest doesn't count are from a
run that was killed. The next run removes them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Container
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TypeAlias

from ladle.batch.errors import BatchError
from ladle.batch.output.manifest import FILE_NAME, PLAN_NAME, Manifest, Shard
from ladle.batch.rows import Answered, FailedRow
from ladle.batch.writers import names
from ladle.batch.writers.writer import MakeWriter, Writer

OnStep: TypeAlias = "Callable[[str], None]"
"""Is called with the name of each finished step; an exception that it raises ends the run there."""

_LOCK = "_lock"
_OURS = re.compile(r"(part|_failed)-\d{5,}(-[0-9a-f]+){0,2}\..+|\..+\.tmp")


class OutputFolder:
    """A folder, locked for this process; a context manager, for one thread.

    Raises:
        BatchError: The folder holds other files, or another process writes to it.
        OSError: The folder can't be made or written to.
    """

    run = ""
    """What the names of this run's files end with, before their extension."""

    def __init__(self, path: Path, on_step: OnStep = lambda step: None) -> None:
        self.path = path
        """Where files are written."""
        self.on_step = on_step
        """Is called after each step."""
        path.mkdir(parents=True, exist_ok=True)
        self.check()  # before the lock: another program's folder gets no file of ours
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
        """Return the manifest; None in an empty folder.

        Raises:
            BatchError: The folder has files but no manifest, or the manifest can't be read.
        """
        self.check()
        try:
            return Manifest.from_json((self.path / FILE_NAME).read_bytes())
        except FileNotFoundError:
            return None
        except BatchError as error:
            raise BatchError(f"{self.path}: {error}; --restart begins anew") from None

    def check(self) -> None:
        """Check that the folder is empty, or was made by `ladle predict`.

        The manifest is the first file in a folder, and the last one to be removed.

        Raises:
            BatchError: The folder has files but no manifest, or is of many workers.
        """
        names = set(os.listdir(self.path)) - {_LOCK, _temporary(FILE_NAME)}
        refuse_tasks(self.path, names)
        if names and FILE_NAME not in names:
            raise BatchError(
                f"{self.path}: expected an empty folder or one of ladle predict, found "
                f'"{min(names)}" in it'
            )

    def save(self, manifest: Manifest) -> None:
        """Replace the manifest.

        Raises:
            OSError: It can't be written; the one before is still there.
        """
        temporary = self.path / _temporary(FILE_NAME)
        try:
            with temporary.open("wb") as file:
                file.write(manifest.to_json().encode())
                sync(file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(temporary)) from None
        self.on_step("manifest written")
        os.replace(temporary, self.path / FILE_NAME)
        self.sync_names()
        self.on_step("manifest in place")

    def remove_leftovers(self, manifest: Manifest) -> None:
        """Remove the shards that the manifest doesn't count."""
        counted = {name for shard in manifest.shards for name in shard.files}
        for name in os.listdir(self.path):
            if is_of_ours(name) and name not in counted:
                (self.path / name).unlink(missing_ok=True)

    def open_shard(self, index: int, start: int, make_writer: MakeWriter) -> ShardFiles:
        """Begin shard number `index`, whose first row is number `start`."""
        return ShardFiles(self, f"{index:05}{self.run}", start, make_writer, self.on_step)

    def sync_names(self) -> None:
        """Sync the folder itself, so that renamed files keep their names after a crash."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class ShardFolder(Protocol):
    """The folder of a shard's files."""

    @property
    def path(self) -> Path:
        """Where the files are written."""

    def sync_names(self) -> None:
        """Sync the folder itself, so that renamed files keep their names after a crash."""


class ShardFiles:
    """The files of a shard while they are written; for one thread."""

    def __init__(
        self,
        folder: ShardFolder,
        number: str,
        start: int,
        make_writer: MakeWriter,
        on_step: OnStep,
        file: str | None = None,
    ) -> None:
        """Begin a shard whose first row is number `start`.

        Args:
            folder: where the files go.
            number: what follows `part-` and `_failed-` in their names.
            start: the number of the first row.
            make_writer: makes the writer of the rows.
            on_step: see `OnStep`.
            file: the file of the input that all rows are of; None where rows are numbered through
                all files.
        """
        self.start = self.stop = start
        self._folder = folder
        self._number = number
        self._file = file
        self._on_step = on_step
        self._make_writer = make_writer
        self._writer: Writer | None = None
        self._files: dict[str, BinaryIO] = {}
        self._outputs: tuple[str, ...] = ()
        self._failures: BinaryIO | None = None
        self._failed = 0
        self._versions: set[int] = set()

    def write(self, answered: Answered) -> None:
        """Write rows that follow the last ones.

        Raises:
            BatchError: The outputs have other names than before, or a column has no place.
            OSError: A file can't be written.
        """
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
        """Give the files their names, and return what the manifest says about the shard."""
        if self._writer is not None:
            self._writer.close()
        for file in self._files.values():
            sync(file)
            file.close()
        self._on_step("shard written")
        for name in self._files:
            os.replace(self._path(name), self._folder.path / name)
            self._on_step("shard in place")
        self._folder.sync_names()  # before the manifest counts the files
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
        fields = {"row": failed.row, "code": failed.code, "reason": failed.reason}
        if self._file is not None:
            fields = {"file": self._file} | fields
        line = json.dumps(fields, ensure_ascii=False)
        # Lone surrogates, as in names of files that are no UTF-8, become JSON's escapes.
        self._failures.write(line.encode(errors="backslashreplace") + b"\n")
        self._failed += 1

    def _open(self, name: str) -> BinaryIO:
        # Some file systems take names for the same that differ only in case.
        if name.casefold() in {other.casefold() for other in self._files}:
            raise BatchError(
                f"two columns of the output would both be {name}; leave one out with --keep or "
                "--outputs"
            )
        self._files[name] = self._path(name).open("wb")
        return self._files[name]

    def _path(self, name: str) -> Path:
        return self._folder.path / _temporary(name)


def refuse_tasks(place: object, names: Container[str]) -> None:
    """Refuse a place whose files, of these names, were written by many workers.

    Raises:
        BatchError: It is one.
    """
    if PLAN_NAME in names:
        raise BatchError(
            f"{place}: it holds the output of many workers, which goes on with --task; "
            "give another --output"
        )


def is_of_ours(name: str) -> bool:
    """Whether `ladle predict` gives such names to the files of shards."""
    return _OURS.fullmatch(name) is not None


def _temporary(name: str) -> str:
    return f".{name}.tmp"


def sync(file: BinaryIO) -> None:
    """Write a file's buffers to the disk, so that its content survives a crash."""
    file.flush()
    os.fsync(file.fileno())
