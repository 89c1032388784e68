"""The run itself: parts of the input go to the model, several at a time, and come out in order.

One thread reads, as far ahead as is of use; as many ask the model as there are requests in flight;
and the one that has called `run` hands out work, writes, and decides. All that the others tell it
comes through one queue.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeAlias

from ladle.batch import pace as pacing
from ladle.batch.errors import BatchError, ModelLost, one_line
from ladle.batch.folder import MakeWriter, OutputFolder, ShardFiles
from ladle.batch.manifest import Manifest
from ladle.batch.pace import Pace
from ladle.batch.progress import State
from ladle.batch.readers.reader import MAX_REQUEST_ROWS
from ladle.batch.reading import Read, Reading
from ladle.batch.rows import Answered, FailedRow, Part
from ladle.client.errors import InvalidInput, LadleError, MessageTooLarge, NotFound
from ladle.client.prediction import Prediction

# Well below the 4 MB that gRPC's servers take unless told otherwise.
REQUEST_BYTES = 1 << 20
# Requests under way take no more than this, whatever the pace.
_IN_FLIGHT_BYTES = 64 << 20
# Answers that wait for those of earlier rows.
_MAX_WAITING_BYTES = 64 << 20
# A run whose first rows all fail ends, unless it is told how many may: what is wrong with them is
# likely wrong with all.
_HOPELESS_ROWS = 200


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
    """How long a server may answer nothing at all."""
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
    with ThreadPoolExecutor(options.max_in_flight, thread_name_prefix="predict") as executor:
        running = _Run(ask, folder, manifest, make_writer, options, executor, tell, now)
        reading = Reading(parts(manifest.rows), running.events.put)
        try:
            return running.until_done(reading)
        finally:
            give_up()
            executor.shutdown(wait=False, cancel_futures=True)
            reading.stop()
            running.discard()


@dataclass(eq=False)
class _Split:
    """A request that was sent in two, to see whether its size was at fault."""

    error: LadleError
    answered: int = 0


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


@dataclass
class _Run:
    ask: Ask
    folder: OutputFolder
    manifest: Manifest
    make_writer: MakeWriter
    options: Options
    executor: ThreadPoolExecutor
    tell: Callable[[State], None]
    now: Callable[[], float]
    events: SimpleQueue[_Outcome | Read | BaseException] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        self._began = self._answered_at = self._shard_began = self.now()
        self._rows_before = self._next_row = self.manifest.rows
        self._failed_before = self._failed = self.manifest.failed
        self._share = self._share_before = 0.0
        self._chunks: list[Part] = []  # read and not yet cut into tasks
        self._ready: list[_Task] = []
        self._waiting: list[tuple[float, _Task]] = []
        self._under_way: dict[int, _Task] = {}
        self._serial = 0
        self._done: dict[int, Answered] = {}  # by first row; waiting for earlier rows
        self._done_bytes = 0
        self._answers = 0
        self._rows_answered = 0
        self._rows_failed = 0
        self._first_failed: FailedRow | None = None
        self._request_rows = self.options.request_rows or 0
        self._pace = Pace(
            allowed=min(pacing.FIRST_IN_FLIGHT, self.options.max_in_flight),
            most=self.options.max_in_flight,
        )
        self._shard: ShardFiles | None = None

    def until_done(self, reading: Reading) -> Manifest:
        is_read = False
        while True:
            self._send(reading)
            with self._as_batch_error():
                self._write()
            is_idle = not (self._under_way or self._ready or self._waiting or self._chunks)
            if is_read and is_idle:
                break
            event = self._next_event()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, _Outcome):
                self._settle(self._under_way.pop(event.serial), event)
            elif isinstance(event, Read) and event.part is None:
                is_read = True
            elif isinstance(event, Read) and event.part is not None:
                self._chunks.append(event.part)
            self.tell(self._state())
        assert not self._done, "rows are missing"
        with self._as_batch_error():
            self._finish_shard()
        return self.manifest

    def discard(self) -> None:
        if self._shard is not None:
            self._shard.discard()

    def _next_event(self) -> _Outcome | Read | BaseException | None:
        """Wait until something has happened, or a request may be sent again."""
        timeout = None
        if self._waiting and len(self._under_way) < self._pace.in_flight:
            timeout = max(self._waiting[0][0] - self.now(), 0.0)
        try:
            return self.events.get(timeout=timeout)
        except Empty:
            return None

    def _send(self, reading: Reading) -> None:
        """Send what may be sent now."""
        while len(self._under_way) < self._pace.in_flight:
            is_first = not (self._under_way or self._ready or self._waiting)
            task = self._next_task(reading)
            if task is None:
                return
            if is_first:
                self._answered_at = self.now()  # until now nothing was asked that it could answer
            self._serial += 1
            task.attempts += 1
            self._under_way[self._serial] = task
            self.executor.submit(self._ask, self._serial, task.part)

    def _ask(self, serial: int, part: Part) -> None:
        try:
            result: Prediction | BaseException = self.ask(part)
        except BaseException as error:
            result = error
        self.events.put(_Outcome(serial, result))

    def _next_task(self, reading: Reading) -> _Task | None:
        if self._waiting and self._waiting[0][0] <= self.now():
            heapq.heappush(self._ready, heapq.heappop(self._waiting)[1])
        if self._ready:
            return heapq.heappop(self._ready)
        # Rows that fail slowly hold up all behind them; these wait in bounded numbers.
        ahead = len(self._done) + len(self._waiting) + len(self._under_way)
        if ahead >= 4 * self.options.max_in_flight or self._done_bytes > _MAX_WAITING_BYTES:
            return None
        while self._chunks:
            part = self._next_part(reading)
            if len(part.numbers):
                return _Task(part)
            self._add(
                Answered(
                    start=part.start,
                    stop=part.stop,
                    numbers=part.numbers,
                    outputs={},
                    failed=part.failed,
                    share=part.share,
                )
            )
        return None

    def _next_part(self, reading: Reading) -> Part:
        """Cut the next request's rows off what has been read; none go beyond a shard's end."""
        chunk = self._chunks[0]
        part, rest = chunk, None
        if len(chunk.numbers):
            rows = self._rows_of_request(chunk)
            if len(chunk.numbers) > rows:
                part, rest = chunk.cut(rows)
        size = self.options.shard_rows
        end = (part.start // size + 1) * size
        if part.stop > end:
            part, rest = chunk.cut_before(end)
        if rest is None:
            del self._chunks[0]
            reading.allow_another()
        else:
            self._chunks[0] = rest
        return part

    def _rows_of_request(self, chunk: Part) -> int:
        if not self._request_rows:
            row_bytes = chunk.nbytes / len(chunk.numbers)
            fitting = int(REQUEST_BYTES / max(row_bytes, 1))
            self._request_rows = max(1, min(fitting, MAX_REQUEST_ROWS))
            # A request is at least a row, however large rows are.
            most = int(_IN_FLIGHT_BYTES / max(self._request_rows * row_bytes, 1))
            most = max(1, min(most, self.options.max_in_flight))
            self._pace = Pace(allowed=min(self._pace.allowed, most), most=most)
        return self._request_rows

    def _settle(self, task: _Task, outcome: _Outcome) -> None:
        """Take in what has come of a request."""
        result = outcome.result
        if isinstance(result, LadleError):
            self._settle_failure(task, outcome.serial, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            self._pace = self._pace.after_answer(len(self._under_way) + 1)
            self._answers += 1
            self._answered_at = self.now()
            self._add(_answered(task.part, result))
            if task.parent is not None:
                self._settle_split(task, task.parent)

    def _settle_failure(self, task: _Task, serial: int, error: LadleError) -> None:
        is_busy = pacing.is_busy(error)
        if is_busy:
            self._pace = self._pace.after_complaint(serial, self._serial)
            if self._answers != task.answers_then:
                task.refusals += 1
                task.answers_then = self._answers
        silent_s = self.now() - self._answered_at
        is_patient = silent_s <= self.options.patience_s
        rows = len(task.part.numbers)
        match pacing.verdict(error, rows, task.refusals, is_patient=is_patient):
            case "again":
                due = self.now() + pacing.wait_s(task.attempts)
                heapq.heappush(self._waiting, (due, task))
            case "split":
                parent = _Split(error)
                for half in task.part.halves():
                    heapq.heappush(self._ready, _Task(half, parent))
            case "fail":
                number = int(task.part.numbers[0])
                self._add_failed(
                    task.part, FailedRow(number, error.code.name, one_line(error.details))
                )
            case "stop":
                raise _stopped(error, silent_s)

    def _settle_split(self, task: _Task, parent: _Split) -> None:
        """Send smaller requests from now on, where both halves of one were good."""
        parent.answered += 1
        size = len(task.part.numbers)
        is_size = isinstance(parent.error, InvalidInput | MessageTooLarge)
        if parent.answered == 2 and (is_size or pacing.is_busy(parent.error)):
            self._request_rows = min(self._request_rows, size)

    def _add_failed(self, part: Part, failed: FailedRow) -> None:
        self._add(
            Answered(
                start=part.start,
                stop=part.stop,
                numbers=part.numbers[:0],
                outputs={},
                failed=tuple(sorted((*part.failed, failed))),
                share=part.share,
            )
        )

    def _add(self, answered: Answered) -> None:
        self._rows_answered += len(answered.numbers)
        self._rows_failed += len(answered.failed)
        if answered.failed:
            most = self.options.max_failed
            self._first_failed = min(self._first_failed or answered.failed[0], answered.failed[0])
            first = f"row {self._first_failed.row}: {self._first_failed.reason}"
            if most is not None and self._failed_before + self._rows_failed > most:
                raise BatchError(f"more than {most} rows failed; {first}")
            # Where a run before was cut off doesn't decide on whether this one can go on.
            has_answers = self._rows_answered or self._rows_before > self._failed_before
            is_hopeless = not has_answers and self._rows_failed >= _HOPELESS_ROWS
            if most is None and is_hopeless:
                raise BatchError(
                    f"the first {self._rows_failed} rows all failed, which --max-failed would "
                    f"allow; {first}"
                )
        self._done[answered.start] = answered
        self._done_bytes += answered.nbytes

    def _write(self) -> None:
        """Write what is next in order, and end the shard where it is time."""
        while (answered := self._done.pop(self._next_row, None)) is not None:
            self._done_bytes -= answered.nbytes
            if self._shard is None:
                self._shard_began = self.now()
                self._shard = self.folder.open_shard(
                    len(self.manifest.shards), self._next_row, self.make_writer
                )
            self._shard.write(answered)
            self._next_row = answered.stop
            self._failed += len(answered.failed)
            if not self._share and self._rows_before:
                self._share_before = answered.share  # about; it is the time left that needs it
            self._share = answered.share or self._share
            is_full = self._next_row % self.options.shard_rows == 0
            if is_full or self.now() - self._shard_began >= self.options.shard_s:
                self._finish_shard()

    def _finish_shard(self) -> None:
        if self._shard is not None:
            self.manifest = self.manifest.with_shard(self._shard.finish())
            self._shard = None
            self.folder.save(self.manifest)

    @contextmanager
    def _as_batch_error(self) -> Iterator[None]:
        """Say of what can't be written where that was, and what is kept."""
        try:
            yield
        except OSError as error:
            raise BatchError(
                f"{self.folder.path}: {error.strerror or error}; {self.manifest.rows:,} rows are "
                "done, and the same command goes on after them"
            ) from error

    def _state(self) -> State:
        return State(
            rows=self._next_row,
            failed=self._failed,
            share=self._share,
            in_flight=len(self._under_way),
            elapsed_s=self.now() - self._began,
            rows_before=self._rows_before,
            share_before=self._share_before,
        )


def _answered(part: Part, prediction: Prediction) -> Answered:
    rows = len(part.numbers)
    for name, output in prediction.outputs.items():
        if not output.ndim or len(output) != rows:
            raise BatchError(
                f'output "{name}": expected {rows} rows for as many inputs, got shape '
                f"{list(output.shape)}; leave it out with --outputs"
            )
    return Answered(
        start=part.start,
        stop=part.stop,
        numbers=part.numbers,
        outputs=dict(sorted(prediction.outputs.items())),
        kept=part.kept,
        failed=part.failed,
        version=prediction.version,
        share=part.share,
    )


def _stopped(error: LadleError, silent_s: float) -> BatchError:
    if pacing.is_busy(error):
        return ModelLost(f"no answer for {silent_s:.0f} s: {one_line(error)}")
    if isinstance(error, NotFound):
        return ModelLost(
            f"{one_line(error)}; if another version has taken over, --allow-changed-model goes "
            "on with it, and --restart begins anew"
        )
    return BatchError(one_line(error))
