"""Many independent requests on one call: each waits for its batch, and is answered in its turn.

A kind of stream is a Dialect: how its messages are read, and how answers are put. All else is here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import Cancelled, NotFound, ServingError, Unavailable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.machine import malloc
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Afterwards
from ladle.server.rpc.queued import QueuedRequest
from ladle.server.rpc.request import Waiter, earlier, priority_of, with_version
from ladle.server.rpc.status import as_status
from ladle.server.rpc.streaming.dialect import Dialect, Head
from ladle.server.rpc.streaming.read_ahead import Accumulator, ReadAheadWindow

R = TypeVar("R")  # a request as its API's parser returns it

# More is read by a thread of the pool, so that it holds up nobody else.
MAX_INLINE_BYTES = 256 << 10


def streaming(
    dialect: Callable[[Stream], Dialect[R]],
    manager: Manager,
    window: ReadAheadWindow | None = None,
    observer: Observer | None = None,
) -> Streaming:
    """Return the handler of a kind of stream.

    Args:
        dialect: returns a stream's.
        manager: where the models are.
        window: how far each stream is read ahead of its answers.
        observer: hears of each request.
    """
    window = window or ReadAheadWindow()
    observer = observer or Unobserved()
    return Streaming(
        lambda stream: _QueuedStream(stream, manager, dialect(stream), window, observer).begin()
    )


class _Slot(Generic[R]):
    """A request that was read, until its answer is sent."""

    __slots__ = (
        "answer",
        "dropped",
        "message",
        "nbytes",
        "observation",
        "refusal",
        "request",
        "tag",
    )

    def __init__(self, message: bytes, observation: Observation) -> None:
        # The message is made the request; if the caller goes, neither of them stays.
        self.message = message
        self.request: QueuedRequest[R, bytes] | None = None
        self.nbytes = len(message)
        self.observation = observation
        self.tag: object = None
        self.refusal: ServingError | None = None
        """Why its bytes were not reserved."""
        self.answer: bytes | None = None
        self.dropped = False
        """Whether what came before it has ended the stream."""


class _QueuedStream(Generic[R]):
    """One stream. Requests are read in the transport's thread, answers come from anywhere.

    It reads while its window has room, has one message on the way to the caller at a time, and
    ends when the caller has finished and everything is answered.

    Requests that come together begin together, so that they meet in a batch.
    """

    def __init__(
        self,
        stream: Stream,
        manager: Manager,
        dialect: Dialect[R],
        window: ReadAheadWindow,
        observer: Observer,
    ) -> None:
        self._stream = stream
        self._manager = manager
        self._dialect = dialect
        self._api = dialect.path.rpartition("/")[2]
        self._observer = observer
        self._window = window
        self._deadline = stream.deadline
        self._accumulator: Accumulator[_Slot[R]] = Accumulator(window)
        self._read_since = False
        self._awaits_idle = False
        self._lock = threading.Lock()
        self._slots: deque[_Slot[R]] = deque()  # in the order of the requests
        self._ready: deque[_Slot[R]] = deque()  # in the order of the answers, where that counts
        self._nbytes = 0
        self._to_begin: deque[_Slot[R]] = deque()
        self._beginning = False
        self._in_order = True
        self._first = True
        self._reading = False
        self._sending = True  # the opening message, if there is one
        self._finished = False  # nothing more is to be read
        self._over = False
        self._last_word: ServingError | None = None

    def begin(self) -> None:
        """Send the opening message, if there is one, and read once that is sent."""
        self._stream.on_end(self._leave)
        self._stream.on_stop(self._stop)
        opening = self._dialect.opening()
        if opening is None:
            self._sent()
        else:
            self._stream.send(opening, self._sent)

    def _received(self, message: bytes | None) -> None:
        slot: _Slot[R] | None = None
        with self._lock:
            self._reading = False
            if message is None or self._over:
                self._finished = True
            elif not self._finished:
                slot = _Slot(
                    message, Observation(self._api, "GRPC", message, self._stream.metadata)
                )
                self._slots.append(slot)
                self._nbytes += slot.nbytes
        enough = slot is None or self._accumulate(slot)
        self._go_on()  # first, as the next message may be there
        if enough:
            self._begin_accumulated()
        else:
            self._await_idle()

    def _accumulate(self, slot: _Slot[R]) -> bool:
        try:
            self._stream.reserve(slot.nbytes)
        except ServingError as error:
            slot.refusal = error
        self._read_since = True
        return self._accumulator.add(slot, slot.nbytes)

    def _await_idle(self) -> None:
        """Begin what has gathered once nothing more is there to be read.

        While answers are being sent there will be more: each makes room for a request.
        """
        if self._accumulator and not self._awaits_idle and not self._sending:
            self._awaits_idle = True
            self._read_since = False
            self._stream.on_idle(self._became_idle)

    def _became_idle(self) -> None:
        self._awaits_idle = False
        if self._read_since or self._sending:
            self._await_idle()
        else:
            self._begin_accumulated()

    def _begin_accumulated(self) -> None:
        slots, nbytes = self._accumulator.take()
        if not slots:
            return
        with self._lock:
            self._to_begin.extend(slots)
            if self._beginning:
                return
            self._beginning = True
        if nbytes <= MAX_INLINE_BYTES:
            self._begin_next()
        else:
            self._stream.in_thread(self._begin_next)

    def _begin_next(self) -> None:
        """Begin what is to begin, one after the other: in one thread at a time."""
        while True:
            with self._lock:
                if not self._to_begin or self._over:
                    self._beginning = False
                    break
                slot = self._to_begin.popleft()
                dropped = slot.dropped
            if not dropped:
                self._begin(slot)
        self._go_on()

    def _begin(self, slot: _Slot[R]) -> None:
        message, slot.message = slot.message, b""
        is_large = slot.nbytes >= malloc.LARGE_BYTES
        if is_large:
            malloc.trim()  # of the pieces that the transport got it in
            slot.observation.request = None
        try:
            if slot.refusal is not None:
                self._note(slot, self._dialect.outline(message))
                self._answer(slot, slot.refusal)
                return
            head, request = self._dialect.read(message, slot.observation)
        except ServingError as error:
            self._break_off(slot, error)
            return
        del message  # it may be large
        self._note(slot, head)
        self._run(slot, request)

    def _run(self, slot: _Slot[R], request: Callable[[], tuple[R, float | None]]) -> None:
        method = self._dialect.method
        try:
            parsed, deadline = request()
            del request
            spec = method.model_spec(parsed)
            slot.observation.priority = priority_of(self._stream.metadata)
            slot.request = QueuedRequest(
                method,
                parsed,
                slot.nbytes,
                earlier(self._deadline, deadline),
                slot.observation,
                lambda answer: self._answer(slot, answer),
            )
            del parsed
            wait = with_version(
                self._manager,
                spec,
                lambda handle: self._submit(slot, handle),
                self._stream.metadata,
            )
        except Exception as error:
            self._answer(slot, self._translated(slot, error))
        else:
            if wait is not None:
                self._stream.in_thread(lambda: self._wait(slot, wait), waits=True)

    def _translated(self, slot: _Slot[R], error: Exception) -> Exception:
        if not isinstance(error, NotFound):
            return error
        try:
            return self._dialect.missing(slot.tag) or error
        except ServingError as other:  # such as a label that was taken away meanwhile
            return other

    def _note(self, slot: _Slot[R], head: Head) -> None:
        slot.tag = head.tag
        slot.observation.model = head.model
        if self._first:
            self._first = False
            self._in_order = not head.as_ready

    def _wait(self, slot: _Slot[R], wait: Callable[[Waiter], None]) -> None:
        if self._over:
            return
        try:
            wait(self._stream)
        except Exception as error:
            self._answer(slot, self._translated(slot, error))
        self._go_on()

    def _submit(self, slot: _Slot[R], handle: Handle) -> None:
        request = slot.request
        if request is None:  # the caller has gone
            handle.release()
        else:
            request.submit(handle)

    def _answer(self, slot: _Slot[R], answer: bytes | Exception) -> Afterwards:
        """Put an answer in its place; what is returned sends it."""
        if isinstance(answer, Exception):
            error = as_status(answer, self._dialect.path, slot.observation)
            slot.observation.end(error, self._observer)
            encoded = self._dialect.refusal(slot.tag, error)
        else:
            slot.observation.end(answer, self._observer)
            encoded = self._dialect.answer(slot.tag, answer)
        slot.request = None  # it knows the slot, and the slot should be gone with its answer
        # Without the lock: whoever looks for answers does so again afterwards.
        slot.answer = encoded
        if not self._in_order:
            self._ready.append(slot)
        return (self._go_on,)

    def _sent(self) -> None:
        with self._lock:
            self._sending = False
        self._go_on()
        self._await_idle()

    def _go_on(self) -> None:
        """Send, read and end: whatever of it can be done now."""
        with self._lock:
            if self._over:
                return
            slot = self._next_answer()
            more = False
            if slot is not None:
                self._sending = True
                more = self._has_answer()
            read = self._may_read()
            if read:
                self._reading = True
            end = self._finished and not self._slots and not self._sending
            if end:
                self._over = True
        if slot is not None:
            assert slot.answer is not None
            if slot.refusal is None:
                self._stream.give_back(slot.nbytes)
            self._stream.send(slot.answer, self._sent, more=more)
        if read:
            self._stream.receive(self._received)
        if end:
            self._stream.end(self._last_word)

    def _has_answer(self) -> bool:
        if self._in_order:
            return bool(self._slots) and self._slots[0].answer is not None
        return bool(self._ready)

    def _next_answer(self) -> _Slot[R] | None:
        if self._sending or not self._has_answer():
            return None
        if self._in_order:
            slot = self._slots.popleft()
        else:
            slot = self._ready.popleft()
            self._slots.remove(slot)
        self._nbytes -= slot.nbytes
        return slot

    def _may_read(self) -> bool:
        return (
            not self._reading
            and not self._finished
            and self._window.has_room(len(self._slots), self._nbytes)
        )

    def _finish(self, error: ServingError) -> None:
        with self._lock:
            self._finished = True
            self._last_word = self._last_word or error
        self._go_on()

    def _break_off(self, slot: _Slot[R], error: ServingError) -> None:
        """End with the status, once what was read before this slot is answered."""
        with self._lock:
            dropped = [self._slots.pop()]
            while dropped[-1] is not slot:
                dropped.append(self._slots.pop())
            for one in dropped:
                one.dropped = True  # it may still gather
            self._last_word = self._last_word or error
            self._finished = True
        for one in dropped:
            one.observation.end(error, self._observer)
        self._go_on()

    def _stop(self) -> None:
        self._finish(Unavailable("the server is stopping: send the rest to another"))

    def _leave(self) -> None:
        with self._lock:
            self._over = True
            left = list(self._slots)
        for slot in left:
            slot.message = b""
            request, slot.request = slot.request, None
            if request is not None:
                request.cancel()
            if slot.answer is None and not (request is not None and request.is_submitted):
                slot.observation.end(Cancelled("the caller went away"), self._observer)
