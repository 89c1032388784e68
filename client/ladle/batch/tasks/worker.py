"""Which worker of how many a process is, and in which order it takes the tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_FORM = re.compile(r"(auto|[0-9]{1,9})(?:/([0-9]{1,9}))?")
_FORMS = "expected I/N with I from 0 to N-1, auto, or auto/N"


@dataclass(frozen=True)
class Worker:
    """One of the workers of a job."""

    index: int
    """From 0."""
    count: int
    """How many there are. It decides who begins with which tasks, and nothing else."""


def parse_worker(text: str, environ: Mapping[str, str]) -> Worker:
    """Return the worker that `--task` names: `I/N`, or `auto` with or without `/N`.

    `auto` takes the index from the environment of an array job: Kubernetes's indexed Jobs, Slurm's
    job arrays, AWS Batch's array jobs. The latter two also say how many there are.

    Raises:
        ValueError: The text has another form, or the environment does not say enough.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{_FORMS}, got {text!r:.50}")
    index, count = found[1], None if found[2] is None else int(found[2])
    if count == 0 or (index != "auto" and (count is None or int(index) >= count)):
        raise ValueError(f"{_FORMS}, got {text!r:.50}")
    return _of_environment(count, environ) if index == "auto" else Worker(int(index), count or 1)


def order(tasks: int, worker: Worker) -> tuple[list[int], Iterator[int]]:
    """Return the tasks that a worker begins with, and all others, which it takes up after those.

    Its own are consecutive, so that few workers read each file of the input. Of the others it takes
    those of the next worker first, and each worker's from the end, where the work of one that is
    slow or gone is left.
    """

    def others() -> Iterator[int]:
        for step in range(1, worker.count):
            other = Worker((worker.index + step) % worker.count, worker.count)
            yield from reversed(_block(tasks, other))

    return list(_block(tasks, worker)), others()


def _block(tasks: int, worker: Worker) -> range:
    begin = worker.index * tasks // worker.count
    return range(begin, (worker.index + 1) * tasks // worker.count)


def _of_environment(count: int | None, environ: Mapping[str, str]) -> Worker:
    if "SLURM_ARRAY_TASK_ID" in environ:
        # An array's numbers may begin anywhere, and have gaps.
        found = _number("SLURM_ARRAY_TASK_COUNT", environ) if count is None else count
        first = environ.get("SLURM_ARRAY_TASK_MIN", "0")
        step = environ.get("SLURM_ARRAY_TASK_STEP", "1")
        given = _number("SLURM_ARRAY_TASK_ID", environ)
        begin = int(first) if first.isdigit() else 0
        apart = int(step) if step.isdigit() and int(step) else 1
        return Worker(max(given - begin, 0) // apart % max(found, 1), max(found, 1))
    if "AWS_BATCH_JOB_ARRAY_INDEX" in environ:
        name = "AWS_BATCH_JOB_ARRAY_INDEX"
        found = _number("AWS_BATCH_JOB_ARRAY_SIZE", environ) if count is None else count
    elif "JOB_COMPLETION_INDEX" in environ:
        name = "JOB_COMPLETION_INDEX"
        if count is None:
            raise ValueError(
                "Kubernetes does not say how many pods a Job has: expected auto/N, N as in the "
                "Job's completions"
            )
        found = count
    else:
        raise ValueError(
            "auto: expected JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID or AWS_BATCH_JOB_ARRAY_INDEX "
            "in the environment"
        )
    index = _number(name, environ)
    if index >= found:
        raise ValueError(f"{name} is {index}, expected less than the number of workers, {found}")
    return Worker(index, found)


def _number(name: str, environ: Mapping[str, str]) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"auto: expected a whole number in {name}, got {text!r:.50}")
    return int(text)
