"""Predictions on their way into the folder, shard by shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import OutputFolder, ShardFiles
from ladle.batch.output.manifest import Manifest
from ladle.batch.rows import Answered
from ladle.batch.writers.writer import MakeWriter


class ShardedOutput:
    """Writes answers in the order of their rows, and ends shards; for one thread."""

    def __init__(
        self,
        folder: OutputFolder,
        manifest: Manifest,
        make_writer: MakeWriter,
        *,
        shard_rows: int,
        shard_s: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on after the rows of the manifest; shards end as `Options` says."""
        self.manifest = manifest
        """The shards that are in place."""
        self.rows = manifest.rows
        """How many rows are written, those of earlier runs included."""
        self.failed = manifest.failed
        """How many of `rows` have no prediction."""
        self.share = self.share_before = 0.0
        """How much of the input is written, from 0 to 1, and how much earlier runs had written."""
        self._folder = folder
        self._make_writer = make_writer
        self._shard_rows = shard_rows
        self._shard_s = shard_s
        self._now = now
        self._shard: ShardFiles | None = None
        self._shard_began = 0.0
        self._is_resumed = manifest.rows > 0

    @property
    def next_row(self) -> int:
        """The number of the row that is written next."""
        return self.rows

    def write(self, answered: Answered) -> None:
        """Write the rows that follow the last ones, and end the shard where it is time.

        Raises:
            BatchError: The rows can't be written, or the format has no place for them.
        """
        with self._as_batch_error():
            if self._shard is None:
                self._shard_began = self._now()
                self._shard = self._folder.open_shard(
                    len(self.manifest.shards), self.rows, self._make_writer
                )
            self._shard.write(answered)
            self.rows = answered.stop
            self.failed += len(answered.failed)
            if not self.share and self._is_resumed:
                self.share_before = answered.share  # roughly; only the time left needs it
            self.share = answered.share or self.share
            is_whole = self.rows % self._shard_rows == 0
            if is_whole or self._now() - self._shard_began >= self._shard_s:
                self._finish_shard()

    def finish(self) -> Manifest:
        """End the last shard, and return the manifest; every row has been written.

        Raises:
            BatchError: The shard can't be written.
        """
        with self._as_batch_error():
            self._finish_shard()
        return self.manifest

    def discard(self) -> None:
        """Remove the shard that is not finished, where there is one."""
        if self._shard is not None:
            self._shard.discard()

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self.manifest = self.manifest.with_shard(self._shard.finish())
            self._shard = None
            self._folder.save(self.manifest)

    @contextmanager
    def _as_batch_error(self) -> Iterator[None]:
        """Turn an error of the file system into one that says where, and how many rows are done."""
        try:
            yield
        except OSError as error:
            raise BatchError(
                f"{self._folder.path}: {error.strerror or error}; {self.manifest.rows:,} rows are "
                "done, and the same command goes on after them"
            ) from error
