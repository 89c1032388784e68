"""Tells how far a job is, by its output alone: `ladle predict --check OUT`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ladle.batch.errors import BatchError
from ladle.batch.output.manifest import FILE_NAME
from ladle.batch.tasks.commit import commits_of
from ladle.batch.tasks.execute import open_place
from ladle.batch.tasks.plan import Plan
from ladle.batch.tasks.planning import find_plan
from ladle.store.url import StoreUrl


@dataclass(frozen=True, kw_only=True)
class MissingTask:
    """A task that is not committed."""

    task: int
    file: str | None
    """The file of the input that has its rows; None for images."""
    start: int
    stop: int | None
    """None for all rows of the file."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far a job is."""

    output: str
    is_complete: bool
    """Whether the manifest is there, and every file that it counts."""
    tasks: int
    missing: tuple[MissingTask, ...]
    """The tasks that are not committed, in order."""
    damaged: tuple[str, ...] = ()
    """Files that the manifest counts, and that are not there or have another size."""
    rows: int | None = None
    """How many rows there are; None until the job is complete."""
    failed: int | None = None
    """How many of them have no prediction."""


def check(output: Path | StoreUrl) -> Check:
    """Look at the output of many workers. Blocks; changes nothing.

    Raises:
        BatchError: There is none.
        OSError: It can't be read.
    """
    with ExitStack() as stack:
        place = open_place(output, stack, make=False)
        plan = find_plan(place)
        if plan is None:
            raise BatchError(f"{output}: there is no output of ladle predict --task")
        manifest = place.read(FILE_NAME)
        if manifest is None:
            done = place.committed()
            return Check(
                output=str(output),
                is_complete=False,
                tasks=len(plan.tasks),
                missing=_missing(plan, done),
            )
        commits = commits_of(manifest)
        sizes = place.sizes()
    files = [file for commit in commits for file in commit.files]
    damaged = tuple(sorted(file.name for file in files if sizes.get(file.name) != file.size))
    return Check(
        output=str(output),
        is_complete=not damaged,
        tasks=len(plan.tasks),
        missing=(),
        damaged=damaged,
        rows=sum(commit.rows for commit in commits),
        failed=sum(commit.failed for commit in commits),
    )


def as_text(found: Check) -> str:
    """Return what was found in one line."""
    if found.damaged:
        return (
            f"{found.output}: not whole: missing, or of another size than the manifest says: "
            f"{_few(found.damaged)}"
        )
    if found.is_complete:
        failed = f", {found.failed:,} of them failed" if found.failed else ""
        return f"{found.output}: complete: {found.rows:,} rows{failed}, {_tasks(found.tasks)}"
    done = found.tasks - len(found.missing)
    text = f"{found.output}: {done:,} of {_tasks(found.tasks)} done"
    if not found.missing:
        return f"{text}, and no manifest yet: any worker writes it"
    return f"{text}; missing: {ranges(task.task for task in found.missing)}"


def ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as ranges: `3, 5-9`; of many ranges the first ones."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return _few([str(a) if a == b else f"{a}-{b}" for a, b in found])


def _few(names: Iterable[str], most: int = 20) -> str:
    names = list(names)
    more = f", and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _missing(plan: Plan, done: set[int]) -> tuple[MissingTask, ...]:
    return tuple(
        MissingTask(
            task=number,
            file=None if task.file is None else plan.files[task.file],
            start=task.start,
            stop=task.stop,
        )
        for number, task in enumerate(plan.tasks)
        if number not in done
    )


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count:,} tasks"
