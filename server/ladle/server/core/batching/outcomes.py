"""How requests end: cut ones are put together, callers get their outcomes, then callbacks run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ladle.server.core.batching.queue import Task
from ladle.server.core.batching.rows import Outputs, concat_outputs
from ladle.server.core.batching.run import Ended

logger = logging.getLogger(__name__)


def complete(ended: Sequence[Ended]) -> tuple[list[tuple[Task, Outputs | Exception]], int]:
    """Note what has run. Return the tasks that are complete, and the rows that nobody wants.

    A task that was cut is complete with its last part, or with the first part that fails. The
    batcher's lock must be held.
    """
    done: list[tuple[Task, Outputs | Exception]] = []
    unwanted = 0
    for part, outcome in ended:
        task = part.task
        if task.over:
            unwanted += part.rows
            continue
        if not part.is_whole and not isinstance(outcome, Exception):
            task.finished.append((part.start, outcome))
            task.finished_rows += part.rows
            if task.finished_rows < task.total:
                continue
        else:
            task.finished = []
        task.end()
        done.append((task, outcome))
    return done, unwanted


def reassemble(task: Task, outcome: Outputs | Exception) -> Outputs | Exception:
    """Return the outcome of a complete task: of all its parts if it was cut, else `outcome`."""
    if not task.finished:
        return outcome
    parts, task.finished = sorted(task.finished, key=_start), []
    try:
        return concat_outputs([outputs for _, outputs in parts])
    except Exception as error:
        return error


def _start(part: tuple[int, Outputs]) -> int:
    return part[0]


def deliver(ended: Sequence[tuple[Task, Outputs | Exception]]) -> list[Callable[[], object]]:
    """Hand each caller its outcome; return the callbacks, each one once. Never raises."""
    callbacks: dict[Callable[[], object], None] = {}
    for task, outcome in ended:
        try:
            callbacks.update(dict.fromkeys(task.done(outcome) or ()))
        except Exception:
            logger.exception("a request's outcome could not be handed over")
        # Who holds the task, to cancel it, must not hold the arrays.
        task.inputs = {}
    return list(callbacks)


def run_callbacks(callbacks: Sequence[Callable[[], object]]) -> None:
    """Run what `deliver` has returned. Never raises."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            logger.exception("a callback after a batch failed")
