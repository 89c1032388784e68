"""Answers on their way into the folder: kept until those of earlier rows are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ladle.batch.errors import BatchError
from ladle.batch.folder import MakeWriter, OutputFolder, ShardFiles
from ladle.batch.manifest import Manifest
from ladle.batch.rows import Answered

# Answers that wait for those of earlier rows.
MAX_WAITING_BYTES = 64 << 20


class Output:
    """Writes answers in the order of their rows, and ends shards; for one thread."""

    def __init__(
        self,
        folder: OutputFolder,
        manifest: Manifest,
        make_writer: MakeWriter,
        *,
        shard_rows: int,
        shard_s: float,
        now: Callable[[], float],
    ) -> None:
        """Go on after the rows of the manifest; shards end as `run.Options` says."""
        self.manifest = manifest
        """What is in place."""
        self.rows = manifest.rows
        """Written, those of earlier runs too."""
        self.failed = manifest.failed
        self.share = self.share_before = 0.0
        """How much of the input they are, those of earlier runs too, and of earlier runs alone."""
        self._folder = folder
        self._make_writer = make_writer
        self._shard_rows = shard_rows
        self._shard_s = shard_s
        self._now = now
        self._shard: ShardFiles | None = None
        self._shard_began = 0.0
        self._is_resumed = manifest.rows > 0
        self._waiting: dict[int, Answered] = {}  # by first row
        self._waiting_bytes = 0

    @property
    def waiting(self) -> int:
        """How many answers wait for those of earlier rows."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether no more can wait, in bytes."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    def add(self, answered: Answered) -> None:
        """Take the answer to some rows; nothing is written yet."""
        self._waiting[answered.start] = answered
        self._waiting_bytes += answered.nbytes

    def write(self) -> None:
        """Write what is next in order, and end the shard where it is time.

        Raises:
            BatchError: It can't be written, or is not what a format has a place for.
        """
        with self._as_batch_error():
            while (answered := self._waiting.pop(self.rows, None)) is not None:
                self._waiting_bytes -= answered.nbytes
                self._write(answered)

    def finish(self) -> Manifest:
        """End the last shard, and return the manifest; every row has been added.

        Raises:
            BatchError: It can't be written.
        """
        assert not self._waiting, "rows are missing"
        with self._as_batch_error():
            self._finish_shard()
        return self.manifest

    def discard(self) -> None:
        """Remove the shard that has been begun, where there is one."""
        if self._shard is not None:
            self._shard.discard()

    def _write(self, answered: Answered) -> None:
        if self._shard is None:
            self._shard_began = self._now()
            self._shard = self._folder.open_shard(
                len(self.manifest.shards), self.rows, self._make_writer
            )
        self._shard.write(answered)
        self.rows = answered.stop
        self.failed += len(answered.failed)
        if not self.share and self._is_resumed:
            self.share_before = answered.share  # about; it is the time left that needs it
        self.share = answered.share or self.share
        is_whole = self.rows % self._shard_rows == 0
        if is_whole or self._now() - self._shard_began >= self._shard_s:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self.manifest = self.manifest.with_shard(self._shard.finish())
            self._shard = None
            self._folder.save(self.manifest)

    @contextmanager
    def _as_batch_error(self) -> Iterator[None]:
        """Say of what can't be written where that was, and what is kept."""
        try:
            yield
        except OSError as error:
            raise BatchError(
                f"{self._folder.path}: {error.strerror or error}; {self.manifest.rows:,} rows are "
                "done, and the same command goes on after them"
            ) from error
