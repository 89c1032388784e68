"""The plan of a job: which rows are which task. It is written once, and never changes.

Tasks don't depend on the number of workers, so that more of them may come, or fewer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.output.manifest import PLAN_NAME, check_settings

FORMAT = 2
"""Of a place that many workers write to. A place of one process has format 1."""
MAX_TASKS = 100_000
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Task(NamedTuple):
    """Some rows of the input."""

    file: int | None
    """Which file of the input they are in, from 0; None where each file is a row."""
    start: int
    """The number of the first row: through all files, or in a task that is a whole file, 0."""
    stop: int | None
    """The number after the last row; None for all rows of the file, which are counted there."""
    skipped: int = 0
    """How many rows of the file are before the first one."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all workers of a job go by."""

    input: str
    """The input's fingerprint."""
    input_format: str
    files: tuple[str, ...]
    """The files of the input, as the worker calls them that made the plan; none for images."""
    columns: tuple[str, ...]
    """The columns of the input."""
    settings: Mapping[str, Any]
    """Everything else that decides on the predictions; plain JSON values."""
    version: int | None
    """The version that requests name; None where the server doesn't say which it has."""
    shard_rows: int
    """At most so many rows are in a part."""
    tasks: tuple[Task, ...]

    def file_of(self, task: Task) -> str | None:
        """Return the name of the file in which the rows of a task are numbered, if in one."""
        return self.files[task.file] if task.stop is None and task.file is not None else None

    def to_json(self) -> bytes:
        """Return the content of the file."""
        tasks = [{"task": number, **task._asdict()} for number, task in enumerate(self.tasks)]
        fields = {"format": FORMAT, **asdict(self), "tasks": tasks}
        return (json.dumps(fields, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Plan:
        """Read the content of the file.

        Raises:
            BatchError: The text is no plan, or has a format that this ladle doesn't know.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise BatchError(f"{PLAN_NAME}: expected format {FORMAT}, got {fields['format']}")
            files = tuple(map(str, fields["files"]))
            return cls(
                input=str(fields["input"]),
                input_format=str(fields["input_format"]),
                files=files,
                columns=tuple(map(str, fields["columns"])),
                settings=dict(fields["settings"]),
                version=None if fields["version"] is None else int(fields["version"]),
                shard_rows=_at_least(1, fields["shard_rows"]),
                tasks=tuple(_task(task, files) for task in fields["tasks"]),
            )
        except _UNREADABLE as error:
            raise BatchError(f"{PLAN_NAME}: it can't be read as a plan: {error}") from None


def cut(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return ranges of at most `most` rows that hold all rows, in order; none is empty.

    A range begins where a group of rows begins, unless a group has more than `most` rows: so a
    group is seldom read for two tasks.

    Args:
        sizes: how many rows each group has.
        most: how many rows a range may have, at least 1.
    """
    ranges: list[tuple[int, int]] = []
    begin = stop = 0
    for size in sizes:
        if begin < stop and stop - begin + size > most:
            ranges.append((begin, stop))
            begin = stop
        stop += size
        while stop - begin > most:
            ranges.append((begin, begin + most))
            begin += most
    if begin < stop:
        ranges.append((begin, stop))
    return ranges


def tasks_of_rows(groups: Sequence[Sequence[int]], most: int) -> tuple[Task, ...]:
    """Return tasks of at most `most` rows each, from files whose groups have so many rows.

    Raises:
        BatchError: There would be too many.
    """
    firsts = [0]
    for sizes in groups:
        firsts.append(firsts[-1] + sum(sizes))
    return _few_enough(
        tuple(
            Task(file, firsts[file] + begin, firsts[file] + stop, begin)
            for file, sizes in enumerate(groups)
            for begin, stop in cut(sizes, most)
        ),
        "a larger --shard-rows makes fewer",
    )


def tasks_of_images(images: int, most: int) -> tuple[Task, ...]:
    """Return tasks of at most `most` images each.

    Raises:
        BatchError: There would be too many.
    """
    return _few_enough(
        tuple(Task(None, begin, stop) for begin, stop in cut([images], most)),
        "a larger --shard-rows makes fewer",
    )


def tasks_of_files(files: int) -> tuple[Task, ...]:
    """Return a task for each file.

    Raises:
        BatchError: There would be too many.
    """
    return _few_enough(
        tuple(Task(file, 0, None) for file in range(files)), "each file is one; give larger files"
    )


def check_same(plan: Plan, wanted: Plan, *, allow_changed_model: bool, place: object) -> None:
    """Check that a worker would do what the plan says.

    Args:
        plan: the plan that is there.
        wanted: what the worker would have planned; its tasks and its shard rows don't matter.
        allow_changed_model: whether another version may answer.
        place: where the output is, for messages.

    Raises:
        ChangedError: The worker has another input, other settings, or another version of the model.
    """
    anew = f"another --output, or {place} removed, begins anew"
    check_settings(plan.settings, wanted.settings, who="the plan has", hint=anew)
    if (plan.input, plan.input_format) != (wanted.input, wanted.input_format):
        raise ChangedError(f"the input has changed since {place} was planned; {anew}")
    if plan.version != wanted.version and not allow_changed_model:
        raise ChangedError(
            f"the plan asks for version {plan.version} of the model, and version {wanted.version} "
            f"is asked for now; --allow-changed-model goes on; {anew}"
        )


def _few_enough(tasks: tuple[Task, ...], hint: str) -> tuple[Task, ...]:
    if len(tasks) > MAX_TASKS:
        raise BatchError(f"expected at most {MAX_TASKS:,} tasks, got {len(tasks):,}: {hint}")
    return tasks


def _task(fields: Any, files: Sequence[str]) -> Task:
    file = None if fields["file"] is None else _at_least(0, fields["file"])
    if file is not None and file >= len(files):
        raise ValueError(f"expected one of {len(files)} files, got number {file}")
    start = _at_least(0, fields["start"])
    stop = None if fields["stop"] is None else _at_least(start, fields["stop"])
    if stop is None and file is None:
        raise ValueError("a task without a file has no end")
    return Task(file, start, stop, _at_least(0, fields["skipped"]))


def _at_least(least: int, given: Any) -> int:
    if not isinstance(given, int) or given < least:
        raise ValueError(f"expected a number of {least} or more, got {given!r:.50}")
    return given
