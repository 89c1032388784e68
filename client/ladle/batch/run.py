"""The run itself: parts of the input go to the model, several at a time, and come out in order.

One thread reads, as far ahead as is of use; as many ask the model as there are requests in flight;
and the one that has called `run` hands out work, writes, and decides. All that the others tell it
comes through one queue. `cutting` makes requests of what was read, `output` puts answers in order.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from ladle.batch import pace as pacing
from ladle.batch.cutting import Cutter
from ladle.batch.errors import one_line
from ladle.batch.failures import Tally, stopped
from ladle.batch.folder import MakeWriter, OutputFolder
from ladle.batch.manifest import Manifest
from ladle.batch.output import Output
from ladle.batch.pace import Pace
from ladle.batch.progress import State
from ladle.batch.reading import Read, Reading
from ladle.batch.rows import Answered, FailedRow, Part
from ladle.client.errors import InvalidInput, LadleError, MessageTooLarge
from ladle.client.prediction import Prediction


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run goes about it; nothing of it changes the output."""

    request_rows: int | None = None
    """The most rows in a request; None for as many as make about a megabyte, up to 512."""
    max_in_flight: int = 16
    """The most requests at a time."""
    shard_rows: int = 1 << 16
    """A shard ends at multiples of this."""
    shard_s: float = 300.0
    """Or when it has been open for this long, so that a slow model's answers are not lost."""
    patience_s: float = 60.0
    """How long a server that refuses requests, or is gone, may answer none at all. Requests that
    time out are sent in halves first, however long that takes."""
    max_failed: int | None = None
    """How many rows may fail until the run ends; None for any number, if not all of the first."""


Ask: TypeAlias = "Callable[[Part], Prediction]"
"""Has the model answer a part's tensors; blocks, and is called by several threads."""


def run(
    parts: Callable[[int], Iterator[Part]],
    ask: Ask,
    folder: OutputFolder,
    manifest: Manifest,
    make_writer: MakeWriter,
    options: Options,
    *,
    give_up: Callable[[], None],
    tell: Callable[[State], None] = lambda state: None,
    now: Callable[[], float] = time.monotonic,
) -> Manifest:
    """Have all rows answered that the manifest doesn't count yet; return the manifest at the end.

    `parts(n)` yields the input from row n on. `give_up` has all calls of `ask` return; it is
    called at the end, when only a run that has failed has any under way. Blocks until all is in
    place. However it ends, no thread is left, and what the manifest in the folder counts is there.

    Raises:
        BatchError: The run can't go on; see `errors`.
        OSError: The input can't be read, or the output not written.
    """
    output = Output(
        folder,
        manifest,
        make_writer,
        shard_rows=options.shard_rows,
        shard_s=options.shard_s,
        now=now,
    )
    with ThreadPoolExecutor(options.max_in_flight, thread_name_prefix="predict") as executor:
        running = _Run(ask, output, options, executor, tell, now)
        reading = Reading(parts(manifest.rows), running.events.put)
        try:
            return running.until_done(reading)
        finally:
            give_up()
            executor.shutdown(wait=False, cancel_futures=True)
            reading.stop()
            output.discard()


@dataclass(eq=False)
class _Split:
    """A request that was sent in two, to see whether its size was at fault."""

    error: LadleError
    answered: int = 0

    def shows_the_size(self) -> bool:
        """Count a half that was answered; tell whether both were, and the whole was too large."""
        self.answered += 1
        is_size = isinstance(self.error, InvalidInput | MessageTooLarge)
        return self.answered == 2 and (is_size or pacing.is_busy(self.error))


@dataclass(eq=False)
class _Task:
    """A part on its way to an answer."""

    part: Part
    parent: _Split | None = None
    attempts: int = 0
    refusals: int = 0
    """How often the server was too busy for it, though it answered others since the time before."""
    answers_then: int = -1
    """How many answers there had been at the last refusal."""

    def __lt__(self, other: _Task) -> bool:
        return self.part.start < other.part.start


class _Outcome(NamedTuple):
    serial: int
    result: Prediction | BaseException


class _Run:
    def __init__(
        self,
        ask: Ask,
        output: Output,
        options: Options,
        executor: ThreadPoolExecutor,
        tell: Callable[[State], None],
        now: Callable[[], float],
    ) -> None:
        self.events: SimpleQueue[_Outcome | Read | BaseException] = SimpleQueue()
        self._ask = ask
        self._output = output
        self._options = options
        self._executor = executor
        self._tell = tell
        self._now = now
        self._began = self._answered_at = now()
        self._rows_before = output.rows
        self._tally = Tally(
            options.max_failed, rows_before=output.rows, failed_before=output.failed
        )
        self._ready: list[_Task] = []
        self._waiting: list[tuple[float, _Task]] = []
        self._under_way: dict[int, _Task] = {}
        self._serial = 0
        self._answers = 0
        self._pace = Pace(
            allowed=min(pacing.FIRST_IN_FLIGHT, options.max_in_flight), most=options.max_in_flight
        )

    def until_done(self, reading: Reading) -> Manifest:
        cutter = Cutter(
            request_rows=self._options.request_rows,
            shard_rows=self._options.shard_rows,
            max_in_flight=self._options.max_in_flight,
            used_up=reading.allow_another,
        )
        is_read = False
        while True:
            self._send(cutter)
            self._output.write()
            if is_read and cutter.is_empty and not self._is_asking:
                return self._output.finish()
            event = self._next_event()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, _Outcome):
                self._settle(self._under_way.pop(event.serial), event, cutter)
            elif isinstance(event, Read) and event.part is None:
                is_read = True
            elif isinstance(event, Read) and event.part is not None:
                cutter.add(event.part)
            self._tell(self._state())

    @property
    def _is_asking(self) -> bool:
        return bool(self._under_way or self._ready or self._waiting)

    def _next_event(self) -> _Outcome | Read | BaseException | None:
        """Wait until something has happened, or a request may be sent again."""
        timeout = None
        if self._waiting and len(self._under_way) < self._pace.in_flight:
            timeout = max(self._waiting[0][0] - self._now(), 0.0)
        try:
            return self.events.get(timeout=timeout)
        except Empty:
            return None

    def _send(self, cutter: Cutter) -> None:
        """Send what may be sent now."""
        while len(self._under_way) < self._pace.in_flight:
            is_first = not self._is_asking
            task = self._next_task(cutter)
            if task is None:
                return
            if is_first:
                self._answered_at = self._now()  # until now nothing was asked that it could answer
            self._serial += 1
            task.attempts += 1
            self._under_way[self._serial] = task
            self._executor.submit(self._in_thread, self._serial, task.part)

    def _in_thread(self, serial: int, part: Part) -> None:
        try:
            result: Prediction | BaseException = self._ask(part)
        except BaseException as error:
            result = error
        self.events.put(_Outcome(serial, result))

    def _next_task(self, cutter: Cutter) -> _Task | None:
        if self._waiting and self._waiting[0][0] <= self._now():
            heapq.heappush(self._ready, heapq.heappop(self._waiting)[1])
        if self._ready:
            return heapq.heappop(self._ready)
        # Rows that fail slowly hold up all behind them; these wait in bounded numbers.
        ahead = self._output.waiting + len(self._waiting) + len(self._under_way)
        if ahead >= 4 * self._options.max_in_flight or self._output.is_full:
            return None
        while (part := cutter.next()) is not None:
            self._pace = self._pace.at_most(cutter.max_in_flight)
            if len(part.numbers):
                return _Task(part)
            self._add(part.unanswered())
        return None

    def _settle(self, task: _Task, outcome: _Outcome, cutter: Cutter) -> None:
        """Take in what has come of a request."""
        result = outcome.result
        if isinstance(result, LadleError):
            self._settle_failure(task, outcome.serial, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            self._pace = self._pace.after_answer(len(self._under_way) + 1)
            self._answers += 1
            self._answered_at = self._now()
            self._add(task.part.answered(result))
            if task.parent is not None and task.parent.shows_the_size():
                cutter.shrink(len(task.part.numbers))

    def _settle_failure(self, task: _Task, serial: int, error: LadleError) -> None:
        if pacing.is_busy(error):
            self._pace = self._pace.after_complaint(serial, self._serial)
            if self._answers != task.answers_then:
                task.refusals += 1
                task.answers_then = self._answers
        silent_s = self._now() - self._answered_at
        is_patient = silent_s <= self._options.patience_s
        rows = len(task.part.numbers)
        match pacing.verdict(error, rows, task.refusals, is_patient=is_patient):
            case "again":
                due = self._now() + pacing.wait_s(task.attempts)
                heapq.heappush(self._waiting, (due, task))
            case "split":
                parent = _Split(error)
                for half in task.part.halves():
                    heapq.heappush(self._ready, _Task(half, parent))
            case "fail":
                number = int(task.part.numbers[0])
                failed = FailedRow(number, error.code.name, one_line(error.details))
                self._add(task.part.unanswered(failed))
            case "stop":
                raise stopped(error, silent_s)

    def _add(self, answered: Answered) -> None:
        self._tally.count(answered)
        self._output.add(answered)

    def _state(self) -> State:
        return State(
            rows=self._output.rows,
            failed=self._output.failed,
            share=self._output.share,
            in_flight=len(self._under_way),
            elapsed_s=self._now() - self._began,
            rows_before=self._rows_before,
            share_before=self._output.share_before,
        )
