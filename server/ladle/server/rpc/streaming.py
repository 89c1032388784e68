"""ladle.v1.StreamingPrediction/PredictStream: many independent Predict requests on one call."""

from __future__ import annotations

import threading
from collections import deque

from ladle.protos import wire
from ladle.protos.ladle_pb import (
    PredictStreamOutline,
    PredictStreamRequest,
    PredictStreamResponse,
)
from ladle.server.call import Stream, Streaming
from ladle.server.core import malloc
from ladle.server.core.errors import Cancelled, InvalidArgument, NotFound, ServingError, Unavailable
from ladle.server.core.lifecycle.entry import Handle
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Afterwards, Pending
from ladle.server.rpc.gathering import Gathering, Window
from ladle.server.rpc.predict import Outcome, Predict, Request
from ladle.server.rpc.request import acquire, acquire_at_once, parse, require_model_spec
from ladle.server.rpc.status import as_status

_PATH = "/ladle.v1.StreamingPrediction/PredictStream"
_REQUEST: str = PredictStreamRequest.DESCRIPTOR.full_name

# More is read by a thread of the pool, so that it holds up nobody else.
MAX_INLINE_BYTES = 256 << 10


def predict_stream(
    predict: Predict, window: Window | None = None, observer: Observer | None = None
) -> Streaming:
    """Return the handler of the method; `observer` hears of each request."""
    window = window or Window()
    observer = observer or Unobserved()
    return Streaming(lambda stream: _PredictStream(stream, predict, window, observer).begin())


class _Slot:
    """A request that was read, until its answer is sent."""

    __slots__ = (
        "answer",
        "dropped",
        "id",
        "message",
        "nbytes",
        "pending",
        "refusal",
        "request",
        "seen",
    )

    def __init__(self, message: bytes, seen: Observation) -> None:
        # Until each is made the next, or the caller goes: then none of them stays.
        self.message = message
        self.request: Request | None = None
        self.pending: Pending | None = None
        self.nbytes = len(message)
        self.seen = seen
        self.id = 0
        self.refusal: ServingError | None = None
        """Why its bytes were not reserved."""
        self.answer: bytes | None = None
        self.dropped = False
        """Whether what came before it has ended the stream."""


class _PredictStream:
    """One stream. Requests are read in the transport's thread, answers come from anywhere.

    It reads while its window has room, has one message on the way to the caller at a time, and
    ends when the caller has finished and everything is answered.

    Requests that come together begin together, so that they meet in a batch.
    """

    def __init__(
        self, stream: Stream, predict: Predict, window: Window, observer: Observer
    ) -> None:
        self._stream = stream
        self._predict = predict
        self._observer = observer
        self._window = window
        self._typed = predict.is_typed(stream)
        self._deadline = stream.deadline
        self._gathering: Gathering[_Slot] = Gathering(window)
        self._read_since = False
        self._awaits_idle = False
        self._lock = threading.Lock()
        self._slots: deque[_Slot] = deque()  # in the order of the requests
        self._ready: deque[_Slot] = deque()  # in the order of the answers, where that counts
        self._nbytes = 0
        self._to_begin: deque[_Slot] = deque()
        self._beginning = False
        self._in_order = True
        self._first = True
        self._reading = False
        self._sending = True  # the window
        self._finished = False  # nothing more is to be read
        self._over = False
        self._last_word: ServingError | None = None

    def begin(self) -> None:
        """Tell the window, and read once that is sent."""
        self._stream.on_end(self._leave)
        self._stream.on_stop(self._stop)
        start = PredictStreamResponse()
        start.start.window_requests = self._window.requests
        start.start.window_bytes = self._window.nbytes
        self._stream.send(start.SerializeToString(), self._sent)

    def _received(self, message: bytes | None) -> None:
        slot: _Slot | None = None
        with self._lock:
            self._reading = False
            if message is None or self._over:
                self._finished = True
            elif not self._finished:
                seen = Observation("PredictStream", "GRPC", message, self._stream.metadata)
                slot = _Slot(message, seen)
                self._slots.append(slot)
                self._nbytes += slot.nbytes
        enough = slot is None or self._gather(slot)
        self._go_on()  # first, as the next message may be there
        if enough:
            self._begin_gathered()
        else:
            self._await_idle()

    def _gather(self, slot: _Slot) -> bool:
        try:
            self._stream.reserve(slot.nbytes)
        except ServingError as error:
            slot.refusal = error
        self._read_since = True
        return self._gathering.add(slot, slot.nbytes)

    def _await_idle(self) -> None:
        """Begin what has gathered once nothing more is there to be read.

        While answers are being sent there will be more: each makes room for a request.
        """
        if self._gathering and not self._awaits_idle and not self._sending:
            self._awaits_idle = True
            self._read_since = False
            self._stream.on_idle(self._became_idle)

    def _became_idle(self) -> None:
        self._awaits_idle = False
        if self._read_since or self._sending:
            self._await_idle()
        else:
            self._begin_gathered()

    def _begin_gathered(self) -> None:
        slots, nbytes = self._gathering.take()
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

    def _begin(self, slot: _Slot) -> None:
        message, slot.message = slot.message, b""
        is_large = slot.nbytes >= malloc.LARGE_BYTES
        if is_large:
            malloc.trim()  # of the pieces that the transport got it in
            slot.seen.request = None
        try:
            if slot.refusal is not None:
                self._note(slot, parse(PredictStreamOutline, message, _REQUEST))
                self._answer(slot, slot.refusal)
                return
            request = parse(PredictStreamRequest, message)
        except InvalidArgument as error:
            self._break_off(slot, error)
            return
        del message  # it may be large
        self._note(slot, request)
        read = Request(request.request, {}, slot.nbytes)
        try:
            require_model_spec(read.message)
            handle = acquire_at_once(self._predict.manager, read.message.model_spec)
        except NotFound:
            # It may be on its way, and waiting for that takes a thread.
            slot.request = read
            self._stream.in_thread(lambda: self._wait_and_run(slot), waits=True)
        except Exception as error:
            self._answer(slot, error)
        else:
            self._run(slot, handle, read)

    def _note(self, slot: _Slot, request: PredictStreamRequest | PredictStreamOutline) -> None:
        slot.id = request.id
        slot.seen.model = request.request.model_spec.name
        if self._first:
            self._first = False
            self._in_order = not request.answer_as_ready

    def _wait_and_run(self, slot: _Slot) -> None:
        request, slot.request = slot.request, None
        if request is None:
            return
        spec = request.message.model_spec
        try:
            handle = acquire(self._predict.manager, spec, self._deadline, self._stream.on_end)
        except Exception as error:
            self._answer(slot, error)
        else:
            self._run(slot, handle, request)
        self._go_on()

    def _run(self, slot: _Slot, handle: Handle, request: Request) -> None:
        def done(outcome: Outcome) -> Afterwards:
            return self._answer(slot, outcome)

        try:
            slot.pending = self._predict.begin(
                handle, request, self._deadline, done, self._typed, slot.seen
            )
        except Exception as error:
            self._answer(slot, error)
        else:
            if self._over:  # the caller went meanwhile, and nobody has told the queue
                slot.pending.leave()

    def _answer(self, slot: _Slot, outcome: Outcome) -> Afterwards:
        """Put an answer in its place; what is returned sends it."""
        if isinstance(outcome, Exception):
            error = as_status(outcome, _PATH, slot.seen)
            slot.seen.end(error, self._observer)
            answer = PredictStreamResponse(id=slot.id)
            answer.error.error_code = int(error.code)
            answer.error.error_message = error.message
            encoded = answer.SerializeToString()
        else:
            slot.seen.end(outcome, self._observer)
            head = wire.varint_field(2, slot.id) if slot.id else b""
            encoded = wire.join([head, *wire.bytes_field(3, [outcome])])
        # Without the lock: whoever looks for answers does so again afterwards.
        slot.answer = encoded
        if not self._in_order:
            self._ready.append(slot)
        return self._go_on

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

    def _next_answer(self) -> _Slot | None:
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

    def _break_off(self, slot: _Slot, error: ServingError) -> None:
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
            one.seen.end(error, self._observer)
        self._go_on()

    def _stop(self) -> None:
        self._finish(Unavailable("the server is stopping: send the rest to another"))

    def _leave(self) -> None:
        with self._lock:
            self._over = True
            left = list(self._slots)
        for slot in left:
            slot.message = b""
            slot.request = None
            if slot.pending is not None:
                slot.pending.leave()
            elif slot.answer is None:
                slot.seen.end(Cancelled("the caller went away"), self._observer)
