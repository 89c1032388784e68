"""What requests came to: put together where one was cut, and told to who asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ladle.server.core.batching.queue import Task
from ladle.server.core.batching.rows import Outputs, together
from ladle.server.core.batching.run import Ended

logger = logging.getLogger(__name__)


def settle(ended: Sequence[Ended]) -> tuple[list[tuple[Task, Outputs | Exception]], int]:
    """Count in what was run; return the tasks that are over with it, and the rows run in vain.

    Of a task that was cut the outcome is only its last piece's, unless that has failed. Called
    under the batcher's lock.
    """
    done: list[tuple[Task, Outputs | Exception]] = []
    in_vain = 0
    for piece, outcome in ended:
        task = piece.task
        if task.over:
            in_vain += piece.rows
            continue
        if not piece.is_whole and not isinstance(outcome, Exception):
            task.pieces.append((piece.start, outcome))
            task.finished_rows += piece.rows
            if task.finished_rows < task.total:
                continue
        else:
            task.pieces = []
        task.end()
        done.append((task, outcome))
    return done, in_vain


def whole(task: Task, outcome: Outputs | Exception) -> Outputs | Exception:
    """Return the outcome of a task that is over, put together if it was cut."""
    if not task.pieces:
        return outcome
    pieces, task.pieces = sorted(task.pieces, key=_start), []
    try:
        return together([outputs for _, outputs in pieces])
    except Exception as error:
        return error


def _start(piece: tuple[int, Outputs]) -> int:
    return piece[0]


def tell_all(ended: Sequence[tuple[Task, Outputs | Exception]]) -> None:
    """Tell the callers of a batch, and then do what they leave to be done; never raises."""
    follow_up(tell(ended))


def tell(ended: Sequence[tuple[Task, Outputs | Exception]]) -> list[Callable[[], object]]:
    """Tell the callers of a batch; return what they leave to be done, once. Never raises."""
    afterwards: dict[Callable[[], object], None] = {}
    for task, outcome in ended:
        try:
            afterwards.update(dict.fromkeys(task.done(outcome) or ()))
        except Exception:
            logger.exception("a request's outcome could not be handed over")
        # Whoever holds the task to leave it does not hold the arrays.
        task.inputs = {}
    return list(afterwards)


def follow_up(afterwards: Sequence[Callable[[], object]]) -> None:
    """Do what `tell` has returned; never raises."""
    for then in afterwards:
        try:
            then()
        except Exception:
            logger.exception("outcomes could not be handed over")
