"""The rows of one task on their way to their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ladle.batch.errors import BatchError
from ladle.batch.output.folder import OnStep, ShardFiles
from ladle.batch.rows import Answered
from ladle.batch.tasks.commit import Commit, CommittedFile
from ladle.batch.tasks.place import Place
from ladle.batch.tasks.plan import Plan
from ladle.batch.writers.writer import MakeWriter
from ladle.store.layout import file_of


class TaskOutput:
    """Writes the parts of one attempt at a task; a `Destination`."""

    share_before = 0.0

    def __init__(
        self,
        place: Place,
        plan: Plan,
        task: int,
        attempt: str,
        make_writer: MakeWriter,
        *,
        rows_before: int,
        failed_before: int,
        on_step: OnStep,
    ) -> None:
        """Begin with the task's first row.

        Args:
            place: where the parts go.
            plan: the plan that has the task.
            task: its number.
            attempt: is in the parts' names; nobody else's is the same.
            make_writer: makes the writer of each part.
            rows_before: how many rows are done in tasks that are known to be committed.
            failed_before: how many of these have no prediction.
            on_step: see `OnStep`.
        """
        self.next_row = plan.tasks[task].start
        self.rows = rows_before
        self.failed = failed_before
        self.share = 0.0
        self._place = place
        self._plan = plan
        self._number = task
        self._attempt = attempt
        self._make_writer = make_writer
        self._on_step = on_step
        self._failed_before = failed_before
        self._shard: ShardFiles | None = None
        self._shards = 0
        self._files: list[CommittedFile] = []
        self._versions: set[int] = set()

    def write(self, answered: Answered) -> None:
        """Write the rows that follow the last ones; see `Destination`."""
        with self._as_batch_error():
            if self._shard is None:
                self._shard = self._open(answered.start)
            self._shard.write(answered)
            self.rows += answered.stop - answered.start
            self.failed += len(answered.failed)
            self.share = answered.share or self.share
            self.next_row = answered.stop
            # A task with a known end is one part.
            if self._is_whole_file and self.next_row % self._plan.shard_rows == 0:
                self._finish_shard()

    def finish(self) -> Commit:
        """Bring the last part to its place, and return the commit, which is not written yet."""
        with self._as_batch_error():
            self._finish_shard()
        return Commit(
            task=self._number,
            attempt=self._attempt,
            start=self._plan.tasks[self._number].start,
            stop=self.next_row,
            failed=self.failed - self._failed_before,
            versions=tuple(sorted(self._versions)),
            files=tuple(self._files),
        )

    def discard(self) -> None:
        """Remove the part that is not finished, where there is one."""
        if self._shard is not None:
            self._shard.discard()

    def remove(self) -> None:
        """Remove the parts that are in place."""
        for file in self._files:
            self._place.remove(file.name)

    @property
    def _is_whole_file(self) -> bool:
        return self._plan.tasks[self._number].stop is None

    def _open(self, start: int) -> ShardFiles:
        number = f"{self._number:06}-{self._attempt}"
        if self._is_whole_file:
            number += f"-{self._shards:05}"
        self._shards += 1
        file = self._plan.file_of(self._plan.tasks[self._number])
        return ShardFiles(self._place, number, start, self._make_writer, self._on_step, file)

    def _finish_shard(self) -> None:
        if self._shard is None:
            return
        shard = self._shard.finish()
        self._shard = None
        self._versions.update(shard.versions)
        for name in shard.files:
            about = file_of(self._place.path, name)
            self._files.append(CommittedFile(name=name, size=about.size, sha256=about.sha256))
            self._place.keep(name)
            self._on_step("part in place")

    @contextmanager
    def _as_batch_error(self) -> Iterator[None]:
        """Turn an error of the file system into one that says where, and what is done."""
        try:
            yield
        except OSError as error:
            where = Path(str(error.filename)).name if error.filename else ""
            raise BatchError(
                f"{self._place}: {f'{where}: ' if where else ''}{error.strerror or error}; tasks "
                "that are committed stay, and the same command does the others"
            ) from error
