"""The state of a run: rows that wait to be sent, requests, and answers that wait to be written.

No threads, no I/O, no clock: the dispatcher has those, and the tests have others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ladle.batch.dispatch import retries
from ladle.batch.dispatch.chunker import Chunker
from ladle.batch.dispatch.failures import FailureCounter, end_of_run, silent
from ladle.batch.dispatch.limiter import FIRST_LIMIT, ConcurrencyLimiter
from ladle.batch.dispatch.options import Options
from ladle.batch.dispatch.steps import ScheduleState
from ladle.batch.errors import BatchError, one_line
from ladle.batch.output.reorder import ReorderBuffer
from ladle.batch.rows import Answered, FailedRow, Part
from ladle.client.errors import InvalidInput, LadleError, MessageTooLarge
from ladle.client.prediction import Prediction


class Request(NamedTuple):
    """A part that is sent."""

    serial: int
    """Counts all requests of a run, from 1."""
    part: Part


@dataclass(eq=False)
class _SplitRequest:
    """A request that was sent in two, because its size may have been at fault."""

    error: LadleError
    answered: int = 0

    def count_answer(self) -> bool:
        """Count a half that was answered; tell whether the whole was too large, and no row bad."""
        self.answered += 1
        is_size = isinstance(self.error, InvalidInput | MessageTooLarge)
        return self.answered == 2 and (is_size or retries.is_overload(self.error))


@dataclass(eq=False)
class _Pending:
    """A part on its way to an answer."""

    part: Part
    parent: _SplitRequest | None = None
    attempts: int = 0
    refusals: int = 0
    """How often the server was too busy for this part while it answered others."""
    answers_then: int = -1
    """How many answers there had been at the last refusal."""

    def __lt__(self, other: _Pending) -> bool:
        return self.part.start < other.part.start


class Schedule:
    """Takes chunks, answers and failures, and gives requests and answers in order; one thread.

    `next_step(schedule.state(now))` says which method is next. Times are seconds of one clock.
    """

    def __init__(
        self,
        options: Options,
        *,
        first_row: int,
        rows_before: int,
        failed_before: int,
        used_up: Callable[[], None],
        now_s: float,
    ) -> None:
        """Begin at row number `first_row`.

        Earlier runs have done `rows_before` rows, and `failed_before` of them have failed.

        `used_up` is called each time that nothing is left of a chunk.
        """
        self._options = options
        self._chunker = Chunker(
            request_rows=options.request_rows,
            shard_rows=options.shard_rows,
            max_in_flight=options.max_in_flight,
            used_up=used_up,
        )
        self._limiter = ConcurrencyLimiter(
            allowed=min(FIRST_LIMIT, options.max_in_flight), most=options.max_in_flight
        )
        self._failures = FailureCounter(
            options.max_failed, rows_before=rows_before, failed_before=failed_before
        )
        self._buffer = ReorderBuffer(first_row)
        self._in_flight: dict[int, _Pending] = {}
        self._ready: list[_Pending] = []
        self._delayed: list[tuple[float, _Pending]] = []
        self._is_read = False
        self._serial = 0
        self._answers = 0
        self._answered_at_s = self._heard_at_s = now_s

    @property
    def in_flight(self) -> int:
        """How many requests were sent and have not come back."""
        return len(self._in_flight)

    def state(self, now_s: float) -> ScheduleState:
        """Return what decides on the next step."""
        delayed_until_s = self._delayed[0][0] if self._delayed else None
        return ScheduleState(
            now_s=now_s,
            in_flight=len(self._in_flight),
            limit=self._limiter.limit,
            retry_at_s=now_s if self._ready else delayed_until_s,
            has_unsent_rows=not self._chunker.is_empty,
            is_read=self._is_read,
            can_write=self._buffer.has_next,
            backlog=len(self._in_flight) + len(self._delayed) + len(self._buffer),
            max_backlog=4 * self._options.max_in_flight,
            is_buffer_full=self._buffer.is_full,
            silent_until_s=self._heard_at_s + self._options.timeout_s + self._options.patience_s,
        )

    def add_chunk(self, chunk: Part) -> None:
        """Take the chunk that was read next."""
        self._chunker.add(chunk)

    def end_input(self) -> None:
        """Note that no chunk follows."""
        self._is_read = True

    def send(self, now_s: float) -> Request | None:
        """Return the request to send; None where the next rows have all failed before."""
        is_first = not (self._in_flight or self._ready or self._delayed)
        pending = self._next_pending(now_s)
        if pending is None:
            return None
        if is_first:
            self._answered_at_s = now_s  # until now there was nothing to answer
        self._serial += 1
        self._heard_at_s = now_s
        pending.attempts += 1
        self._in_flight[self._serial] = pending
        return Request(self._serial, pending.part)

    def take_answer(self, serial: int, prediction: Prediction, now_s: float) -> None:
        """Take the answer to a request.

        Raises:
            BatchError: An output has not one row for each row of the request.
        """
        self._limiter = self._limiter.after_answer(len(self._in_flight))
        pending = self._in_flight.pop(serial)
        self._answers += 1
        self._answered_at_s = self._heard_at_s = now_s
        self._add(pending.part.answered(prediction))
        if pending.parent is not None and pending.parent.count_answer():
            self._chunker.shrink(len(pending.part.numbers))

    def take_failure(self, serial: int, error: LadleError, now_s: float) -> None:
        """Take the failure of a request, which is sent again, split, or the end of its row.

        Raises:
            BatchError: The run can't go on.
        """
        pending = self._in_flight.pop(serial)
        self._heard_at_s = now_s
        if retries.is_overload(error):
            self._limiter = self._limiter.after_overload(serial, self._serial)
            if self._answers != pending.answers_then:
                pending.refusals += 1
                pending.answers_then = self._answers
        silent_s = now_s - self._answered_at_s
        is_patient = silent_s <= self._options.patience_s
        part = pending.part
        match retries.verdict(error, len(part.numbers), pending.refusals, is_patient=is_patient):
            case "again":
                due_s = now_s + retries.wait_s(pending.attempts)
                heapq.heappush(self._delayed, (due_s, pending))
            case "split":
                parent = _SplitRequest(error)
                for half in part.halves():
                    heapq.heappush(self._ready, _Pending(half, parent))
            case "fail":
                failed = FailedRow(int(part.numbers[0]), error.code.name, one_line(error.details))
                self._add(part.unanswered(failed))
            case "stop":
                raise end_of_run(error, silent_s)

    def pop_answer(self) -> Answered:
        """Return the answer to the next rows in order, which is there."""
        return self._buffer.pop()

    def silence(self, now_s: float) -> BatchError:
        """Return why the run ends when requests in flight never come back."""
        return silent(len(self._in_flight), now_s - self._heard_at_s)

    def _next_pending(self, now_s: float) -> _Pending | None:
        if self._delayed and self._delayed[0][0] <= now_s:
            heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])
        if self._ready:
            return heapq.heappop(self._ready)
        part = self._chunker.next()
        self._limiter = self._limiter.at_most(self._chunker.max_in_flight)
        if part is None:
            return None
        if len(part.numbers):
            return _Pending(part)
        self._add(part.unanswered())
        return None

    def _add(self, answered: Answered) -> None:
        self._failures.count(answered)
        self._buffer.add(answered)
