"""The loop of a run: does what `next_step` says, with threads, a clock, and files.

One thread reads ahead. As many threads as requests in flight ask the model. The thread that calls
`dispatch` sends, writes and decides; the others reach it through one queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from ladle.batch.dispatch.destination import Destination
from ladle.batch.dispatch.options import Options
from ladle.batch.dispatch.progress import ProgressState
from ladle.batch.dispatch.reader_thread import ChunkRead, ReaderThread
from ladle.batch.dispatch.schedule import Request, Schedule
from ladle.batch.dispatch.steps import (
    Finish,
    GiveUp,
    Send,
    WaitForAnswers,
    WaitForReader,
    WaitForRetry,
    Write,
    next_step,
)
from ladle.batch.rows import Part
from ladle.client.errors import LadleError
from ladle.client.prediction import Prediction

# A wait of any length is also several waits; threads can't wait for all lengths at once.
_MAX_WAIT_S = 3600.0
_LAST_WAIT_S = 1.0

Ask: TypeAlias = "Callable[[Part], Prediction]"
"""Sends a part's tensors to the model and returns the answer; blocks; several threads call it."""


def dispatch(
    parts: Iterator[Part],
    ask: Ask,
    output: Destination,
    options: Options,
    *,
    give_up: Callable[[], None],
    show: Callable[[ProgressState], None] = lambda state: None,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Predict all rows of `parts`, which begin at the output's next row.

    `give_up` makes all calls of `ask` return; it is called at the end, when only a run that failed
    still has calls under way. Blocks until all rows are in place. No thread is left afterwards, and
    the output has what it finished.

    Raises:
        BatchError: The run can't go on; see `errors`.
        OSError: The input can't be read, or the output can't be written.
    """
    with ThreadPoolExecutor(options.max_in_flight, thread_name_prefix="predict") as executor:
        events: SimpleQueue[_Event] = SimpleQueue()
        reader = ReaderThread(parts, events.put)
        try:
            _Dispatcher(ask, output, options, executor, events, reader, show, now).finish()
        finally:
            give_up()
            executor.shutdown(wait=False, cancel_futures=True)
            reader.stop()
            output.discard()


class _Outcome(NamedTuple):
    serial: int
    result: Prediction | BaseException


_Event: TypeAlias = _Outcome | ChunkRead | BaseException


class _Dispatcher:
    def __init__(
        self,
        ask: Ask,
        output: Destination,
        options: Options,
        executor: ThreadPoolExecutor,
        events: SimpleQueue[_Event],
        reader: ReaderThread,
        show: Callable[[ProgressState], None],
        now: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._output = output
        self._executor = executor
        self._events = events
        self._show = show
        self._now = now
        self._began_s = now()
        self._rows_before = output.rows
        self._schedule = Schedule(
            options,
            first_row=output.next_row,
            rows_before=output.rows,
            failed_before=output.failed,
            used_up=reader.allow_another,
            now_s=self._began_s,
        )

    def finish(self) -> None:
        """Take steps until the last one."""
        while True:
            now_s = self._now()
            match next_step(self._schedule.state(now_s)):
                case Send():
                    request = self._schedule.send(now_s)
                    if request is not None:
                        self._executor.submit(self._ask_in_thread, request)
                case Write():
                    self._output.write(self._schedule.pop_answer())
                case WaitForReader():
                    self._wait(None)
                case WaitForAnswers(until_s) | WaitForRetry(until_s):
                    self._wait(min(max(until_s - now_s, 0.0), _MAX_WAIT_S))
                case GiveUp():
                    # A process that was stopped for a while finds the answers only now.
                    if not self._wait(_LAST_WAIT_S):
                        raise self._schedule.silence(now_s)
                case Finish():
                    self._output.finish()
                    return

    def _wait(self, timeout_s: float | None) -> bool:
        """Take the next event; tell whether there was one in time."""
        try:
            event = self._events.get(timeout=timeout_s)
        except Empty:
            return False
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, _Outcome):
            self._take(event.serial, event.result)
        elif event.chunk is None:
            self._schedule.end_input()
        else:
            self._schedule.add_chunk(event.chunk)
        self._show(self._state())
        return True

    def _take(self, serial: int, result: Prediction | BaseException) -> None:
        if isinstance(result, LadleError):
            self._schedule.take_failure(serial, result, self._now())
        elif isinstance(result, BaseException):
            raise result
        else:
            self._schedule.take_answer(serial, result, self._now())

    def _ask_in_thread(self, request: Request) -> None:
        try:
            result: Prediction | BaseException = self._ask(request.part)
        except BaseException as error:
            result = error
        self._events.put(_Outcome(request.serial, result))

    def _state(self) -> ProgressState:
        return ProgressState(
            rows=self._output.rows,
            failed=self._output.failed,
            share=self._output.share,
            in_flight=self._schedule.in_flight,
            elapsed_s=self._now() - self._began_s,
            rows_before=self._rows_before,
            share_before=self._output.share_before,
        )
