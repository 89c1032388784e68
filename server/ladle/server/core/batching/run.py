"""Running one batch, so that each request in it ends as it would have ended alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import Piece, Queue
from ladle.server.core.batching.rows import Outputs, RowsLost, assemble, hand_out
from ladle.server.core.batching.trust import Standing, Trust
from ladle.server.core.errors import Code, DeadlineExceeded, ServingError
from ladle.server.core.observation import Observer, Run, Unobserved
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId

Ended: TypeAlias = "tuple[Piece, Outputs | Exception]"

LATE = "the deadline passed while the request waited for its batch"


class BatchRun:
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
            now: tells the time of deadlines.
            observer: hears of each run.
            servable_id: what it hears that the model is.
        """
        self._model = model
        self._trust = trust
        self._now = now
        self._observer = observer or Unobserved()
        self._id = servable_id or ServableId("", 0)

    def __call__(self, queue: Queue, pieces: Sequence[Piece], options: BatchOptions) -> list[Ended]:
        """Return what each piece came to; never raises.

        A batch that fails is run again in halves, down to single requests: one that is to blame
        fails alone. That takes less than two runs for each request in it. Whoever has left or
        expired by then is not run again, and one who has left is not in what is returned.

        Nothing of a stateful signature is run again: if its batch fails, all requests in it fail.
        """
        ended: list[Ended] = []
        standing = self._trust.standing(queue.signature, queue.outputs)
        if not queue.alone and standing is Standing.ALONE:  # since the requests came
            wanted = self._still_wanted(list(pieces), ended)
            return ended + [self._run_later_alone(queue, piece) for piece in wanted]
        runs_once = bool(queue.signature.stateful)
        remaining = [list(pieces)]
        while remaining:
            part = self._still_wanted(remaining.pop(), ended)
            if not part:
                continue
            try:
                outcomes = self._run_together(queue, part, options)
            except RowsLost as error:
                self._trust.lost_rows(queue.signature, str(error))
                if runs_once:
                    failure = ServingError(f"{error}; later requests run alone", Code.INTERNAL)
                    ended += [(piece, failure) for piece in part]
                else:
                    ended += [self._run_alone(queue, piece) for piece in part]
            except Exception as error:
                if len(part) == 1 or runs_once:
                    ended += [(piece, error) for piece in part]
                else:
                    middle = len(part) // 2
                    remaining += [part[middle:], part[:middle]]
            else:
                ended += zip(part, outcomes, strict=True)
        return ended

    def _still_wanted(self, pieces: list[Piece], ended: list[Ended]) -> list[Piece]:
        wanted = []
        now: float | None = None
        for piece in pieces:
            task = piece.task
            if task.over:
                continue
            if task.deadline is not None:
                now = self._now() if now is None else now
                if task.deadline <= now:
                    ended.append((piece, DeadlineExceeded(LATE)))
                    continue
            wanted.append(piece)
        return wanted

    def _run_together(
        self, queue: Queue, pieces: list[Piece], options: BatchOptions
    ) -> list[Outputs]:
        counts = [piece.rows for piece in pieces]
        rows = sum(counts)
        padded = options.padded(rows)
        is_one = len(pieces) == 1 and padded == rows and pieces[0].is_whole
        size = pieces[0].task.size if queue.alone else rows
        run = self._begin(queue, pieces, size, size + padded - rows)
        try:
            inputs = pieces[0].inputs
            if not is_one:
                inputs = assemble([piece.inputs for piece in pieces], padded, pads=queue.pads)
            run.assembled = self._now()
            outputs = self._model.run(queue.signature, inputs, queue.outputs)
            run.computed = self._now()
            handed_out = [outputs] if is_one else hand_out(outputs, counts, padded)
            run.failed = False
            return handed_out
        finally:
            run.end(self._now(), self._observer)

    def _run_later_alone(self, queue: Queue, piece: Piece) -> Ended:
        if queue.signature.stateful and not piece.is_whole:  # other rows of it may have run
            return piece, ServingError(
                "the request was cut, and can't run as a whole any more: send it again",
                Code.ABORTED,
            )
        return self._run_alone(queue, piece)

    def _run_alone(self, queue: Queue, piece: Piece) -> Ended:
        whole = Piece.all_of(piece.task)
        run = self._begin(queue, [whole], whole.rows, whole.rows)
        run.assembled = run.started
        try:
            outputs = self._model.run(queue.signature, whole.inputs, queue.outputs)
            run.computed = self._now()
            run.failed = False
        except Exception as error:
            return whole, error
        else:
            return whole, outputs
        finally:
            run.end(self._now(), self._observer)

    def _begin(self, queue: Queue, pieces: Sequence[Piece], rows: int, padded: int) -> Run:
        seen = [piece.task.seen for piece in pieces if piece.task.seen is not None]
        return Run(self._id, queue.signature.names, seen, rows, padded - rows, self._now())
