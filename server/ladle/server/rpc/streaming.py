"""ladle.v1.StreamingPrediction/PredictStream: many independent Predict requests on one call."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from ladle.protos import wire
from ladle.protos.ladle_pb import PredictStreamRequest, PredictStreamResponse
from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import InvalidArgument, ServingError, Unavailable
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Pending
from ladle.server.rpc.predict import Outcome, Predict, Request
from ladle.server.rpc.request import acquire_at_once, parse, require_model_spec
from ladle.server.rpc.status import as_status

_PATH = "/ladle.v1.StreamingPrediction/PredictStream"


@dataclass(frozen=True)
class Window:
    """How far a stream is read ahead of its answers."""

    requests: int = 64
    nbytes: int = 4 << 20
    """Of the requests; the last one may go beyond."""


def predict_stream(
    predict: Predict, window: Window | None = None, observer: Observer | None = None
) -> Streaming:
    """Return the handler of the method; `observer` hears of each request."""
    window = window or Window()
    observer = observer or Unobserved()
    return Streaming(lambda stream: _PredictStream(stream, predict, window, observer).begin())


class _Slot:
    """A request that was read, until its answer is sent."""

    __slots__ = ("answer", "id", "nbytes", "pending", "seen")

    def __init__(self, request_id: int, seen: Observation) -> None:
        self.id = request_id
        self.nbytes = seen.request_bytes
        self.seen = seen
        self.answer: bytes | None = None
        self.pending: Pending | None = None


class _PredictStream:
    """One stream. Requests are read in the transport's thread, answers come from anywhere.

    It reads while its window has room, has one message on the way to the caller at a time, and
    ends when the caller has finished and everything is answered.
    """

    def __init__(
        self, stream: Stream, predict: Predict, window: Window, observer: Observer
    ) -> None:
        self._stream = stream
        self._predict = predict
        self._observer = observer
        self._window = window
        self._typed = predict.is_typed(stream)
        self._lock = threading.Lock()
        self._slots: deque[_Slot] = deque()  # in the order of the requests
        self._ready: deque[_Slot] = deque()  # in the order of the answers, where that counts
        self._nbytes = 0
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
        with self._lock:
            self._reading = False
            if message is None or self._over:
                self._finished = True
            take = not self._finished
        if take and message is not None:
            self._take(message)
        self._go_on()

    def _take(self, message: bytes) -> None:
        seen = Observation("PredictStream", "GRPC", message, self._stream.metadata)
        try:
            request = parse(PredictStreamRequest, message)
        except InvalidArgument as error:
            seen.end(error, self._observer)
            self._finish(error)
            return
        seen.model = request.request.model_spec.name
        slot = _Slot(request.id, seen)
        with self._lock:
            if self._first:
                self._first = False
                self._in_order = not request.answer_as_ready
            self._slots.append(slot)
            self._nbytes += slot.nbytes

        def done(outcome: Outcome) -> None:
            self._answer(slot, outcome)

        try:
            require_model_spec(request.request)
            handle = acquire_at_once(self._predict.manager, request.request.model_spec)
            slot.pending = self._predict.begin(
                handle,
                Request(request.request, {}, slot.nbytes),
                self._stream.deadline,
                done,
                self._typed,
                seen,
            )
        except Exception as error:
            self._answer(slot, error)

    def _answer(self, slot: _Slot, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            error = as_status(outcome, _PATH)
            slot.seen.end(error, self._observer)
            answer = PredictStreamResponse(id=slot.id)
            answer.error.error_code = int(error.code)
            answer.error.error_message = error.message
            encoded = answer.SerializeToString()
        else:
            slot.seen.end(outcome, self._observer)
            head = wire.varint_field(2, slot.id) if slot.id else b""
            encoded = wire.join([head, *wire.bytes_field(3, [outcome])])
        with self._lock:
            slot.answer = encoded
            if not self._in_order:
                self._ready.append(slot)
        self._go_on()

    def _sent(self) -> None:
        with self._lock:
            self._sending = False
        self._go_on()

    def _go_on(self) -> None:
        """Send, read and end: whatever of it can be done now."""
        with self._lock:
            if self._over:
                return
            slot = self._next_answer()
            if slot is not None:
                self._sending = True
            read = self._may_read()
            if read:
                self._reading = True
            end = self._finished and not self._slots and not self._sending
            if end:
                self._over = True
        if slot is not None:
            assert slot.answer is not None
            self._stream.send(slot.answer, self._sent)
        if read:
            self._stream.receive(self._received)
        if end:
            self._stream.end(self._last_word)

    def _next_answer(self) -> _Slot | None:
        if self._sending:
            return None
        if self._in_order:
            if not self._slots or self._slots[0].answer is None:
                return None
            slot = self._slots.popleft()
        else:
            if not self._ready:
                return None
            slot = self._ready.popleft()
            self._slots.remove(slot)
        self._nbytes -= slot.nbytes
        return slot

    def _may_read(self) -> bool:
        return (
            not self._reading
            and not self._finished
            and len(self._slots) < self._window.requests
            and self._nbytes < self._window.nbytes
        )

    def _finish(self, error: ServingError) -> None:
        with self._lock:
            self._finished = True
            self._last_word = self._last_word or error
        self._go_on()

    def _stop(self) -> None:
        self._finish(Unavailable("the server is stopping: send the rest to another"))

    def _leave(self) -> None:
        with self._lock:
            self._over = True
            left = [slot.pending for slot in self._slots]
        for pending in left:
            if pending is not None:
                pending.leave()
