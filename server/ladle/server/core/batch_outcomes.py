"""What requests came to: put together where one was cut, and told to who asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ladle.server.core.batch_queue import Task
from ladle.server.core.batch_rows import Outputs, together

logger = logging.getLogger(__name__)


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
            if (then := task.done(outcome)) is not None:
                afterwards[then] = None
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
