"""Running one batch, so that each request in it ends as it would have ended alone.

Afterwards `complete` finds the requests that are over, and `deliver` gives callers their outcomes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ladle.server.core.batching.group import GroupSlice
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import Queue, Task, TaskSlice
from ladle.server.core.batching.rows import (
    Outputs,
    RowsLost,
    concat_outputs,
    merge_inputs,
    split_outputs,
)
from ladle.server.core.batching.trust import Standing, Trust
from ladle.server.core.errors import Code, DeadlineExceeded, ServingError
from ladle.server.core.observation import Observer, Run, Unobserved
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

Ended: TypeAlias = "tuple[TaskSlice, Outputs | Exception]"

LATE = "the deadline passed while the request waited for its batch"


class BatchRunner:
    """Runs the batches of one model. Thread-safe."""

    def __init__(
        self,
        model: Model,
        trust: Trust,
        now: Callable[[], float],
        observer: Observer | None = None,
        servable_id: ServableId | None = None,
    ) -> None:
        """Take what runs.

        Args:
            model: what runs.
            trust: which signatures run in batches; it learns which outputs lose rows.
            now: returns the time, on the clock of deadlines.
            observer: is called after each run.
            servable_id: which version `model` is, for the observer and the log.
        """
        self._model = model
        self._trust = trust
        self._now = now
        self._observer = observer or Unobserved()
        self._id = servable_id or ServableId("", 0)

    def __call__(
        self, queue: Queue, parts: Sequence[TaskSlice], options: BatchOptions
    ) -> list[Ended]:
        """Return the outcome of each part; never raises.

        A batch that fails is run again in halves, down to single requests, so that only a request
        that causes the failure fails. This takes less than two runs for each request. A request
        that was cancelled or has expired by then is not run again. A cancelled one has no outcome.

        Nothing of a stateful signature is run again: if its batch fails, all requests in it fail.
        """
        ended: list[Ended] = []
        standing = self._trust.standing(queue.signature, queue.key.outputs)
        if not queue.key.alone and standing not in (Standing.VOUCHED, Standing.BATCHED):
            # since the requests came: a batch has shown something, or nobody vouches any more
            wanted = self._still_wanted(list(parts), ended)
            alone = [one for part in wanted for one in part.in_parts(1)]
            return ended + [self._run_later_alone(queue, one) for one in alone]
        runs_once = bool(queue.signature.stateful)
        remaining = [list(parts)]
        while remaining:
            batch = self._still_wanted(remaining.pop(), ended)
            if not batch:
                continue
            try:
                outcomes = self._run_together(queue, batch, options)
            except RowsLost as error:
                if self._trust.lost_rows(queue.signature, str(error)):
                    logger.warning(
                        "an output lacks rows in a batch, so each request runs alone from now on "
                        "model=%s version=%d signature=%s reason=%s",
                        *self._id,
                        "+".join(queue.signature.names),
                        error,
                    )
                if runs_once:
                    failure = ServingError(f"{error}; later requests run alone", Code.INTERNAL)
                    ended += [(part, failure) for part in batch]
                else:
                    alone = [one for part in batch for one in part.in_parts(1)]
                    ended += [self._run_alone(queue, one) for one in alone]
            except Exception as error:
                if len(batch) == 1 and not runs_once:
                    batch = list(batch[0].in_parts((batch[0].requests + 1) // 2))
                if len(batch) == 1 or runs_once:
                    ended += [(part, error) for part in batch]
                else:
                    middle = len(batch) // 2
                    remaining += [batch[middle:], batch[:middle]]
            else:
                ended += zip(batch, outcomes, strict=True)
        return ended

    def _still_wanted(self, parts: list[TaskSlice], ended: list[Ended]) -> list[TaskSlice]:
        wanted: list[TaskSlice] = []
        now: float | None = None
        for part in parts:
            task = part.task
            if isinstance(part, GroupSlice):
                if part.drop_who_left():
                    wanted.append(part)
                continue
            if task.over:
                continue
            if task.deadline is not None:
                now = self._now() if now is None else now
                if task.deadline <= now:
                    ended.append((part, DeadlineExceeded(LATE)))
                    continue
            wanted.append(part)
        return wanted

    def _run_together(
        self, queue: Queue, parts: list[TaskSlice], options: BatchOptions
    ) -> list[Outputs]:
        counts = [part.rows for part in parts]
        rows = sum(counts)
        padded = options.padded(rows)
        is_one = len(parts) == 1 and padded == rows and parts[0].is_whole
        is_one = is_one and parts[0].requests == 1
        size = parts[0].task.size if queue.key.alone else rows
        run = self._begin(queue, parts, size, size + padded - rows)
        try:
            if is_one:
                inputs = parts[0].inputs
            else:  # a group copies its inputs whenever it is asked for them
                inputs = merge_inputs([part.inputs for part in parts], padded, pads=queue.key.pads)
            run.assembled = self._now()
            outputs = self._model.run(queue.signature, inputs, queue.key.outputs)
            run.computed = self._now()
            split = [outputs] if is_one else split_outputs(outputs, counts, padded)
            run.failed = False
            return split
        finally:
            run.end(self._now(), self._observer)

    def _run_later_alone(self, queue: Queue, part: TaskSlice) -> Ended:
        if queue.signature.stateful and not part.is_whole:  # other rows of it may have run
            return part, ServingError(
                "the request was cut, and can't run as a whole any more: send it again",
                Code.ABORTED,
            )
        return self._run_alone(queue, part)

    def _run_alone(self, queue: Queue, part: TaskSlice) -> Ended:
        whole = part.whole()
        run = self._begin(queue, [whole], whole.rows, whole.rows)
        run.assembled = run.started
        try:
            outputs = self._model.run(queue.signature, whole.inputs, queue.key.outputs)
            run.computed = self._now()
            run.failed = False
        except Exception as error:
            return whole, error
        else:
            return whole, outputs
        finally:
            run.end(self._now(), self._observer)

    def _begin(self, queue: Queue, parts: Sequence[TaskSlice], rows: int, padded: int) -> Run:
        observations = [each for part in parts for each in part.observations]
        return Run(self._id, queue.signature.names, observations, rows, padded - rows, self._now())


def complete(
    ended: Sequence[Ended],
) -> tuple[list[tuple[Task | GroupSlice, Outputs | Exception]], int]:
    """Note what has run. Return the tasks that are complete, and the rows that nobody wants.

    A task that was cut is complete with its last part, or with the first part that fails. The
    batcher's lock must be held.
    """
    done: list[tuple[Task | GroupSlice, Outputs | Exception]] = []
    unwanted = 0
    for part, outcome in ended:
        task = part.task
        if isinstance(part, GroupSlice):
            unwanted += part.unwanted_rows
            done.append((part, outcome))
            continue
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


def _reassemble(task: Task) -> Outputs | Exception:
    """Return the outcome of a task that was cut: its parts as one, or why they are none."""
    parts = sorted(task.finished, key=_start)
    try:
        return concat_outputs([outputs for _, outputs in parts])
    except Exception as error:
        return error


def _start(part: tuple[int, Outputs]) -> int:
    return part[0]


def deliver(
    ended: Sequence[tuple[Task | GroupSlice, Outputs | Exception]],
) -> list[Callable[[], object]]:
    """Hand each caller its outcome; return the callbacks, each one once. Never raises."""
    callbacks: dict[Callable[[], object], None] = {}
    for task, outcome in ended:
        try:
            if isinstance(task, GroupSlice):
                task.deliver(outcome)
                continue
            # Parts of a request that ends before its last row has run are of no use to its caller.
            if task.finished and not isinstance(outcome, Exception):
                outcome = _reassemble(task)
            # Who holds the task, to cancel it, must not hold the arrays.
            task.inputs, task.finished = {}, []
            if afterwards := task.done(outcome):
                callbacks.update(dict.fromkeys(afterwards))
        except Exception:
            logger.exception("a request's outcome could not be delivered")
    return list(callbacks)


def run_callbacks(callbacks: Sequence[Callable[[], object]]) -> None:
    """Run what `deliver` has returned. Never raises."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            logger.exception("a callback after a batch failed")
