"""Streams without threads."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.limits import Limits
from ladle.server.transport.grpcio.completion import (
    RECEIVE,
    CompletionRpc,
    Places,
    Pools,
    cygrpc,
    initial_metadata,
)

logger = logging.getLogger(__name__)

_SEND = "ladle send"
_IDLE = "ladle idle"


class Streams:
    """Those that there are. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both fields
        self._streams: weakref.WeakSet[CompletionStream] = weakref.WeakSet()
        self._are_stopping = False

    def add(self, stream: CompletionStream) -> None:
        """Count a stream in for as long as it lives."""
        with self._lock:
            self._streams.add(stream)
            are_stopping = self._are_stopping
        if are_stopping:
            stream.stop()

    def stop(self) -> None:
        """Say to all of them, and to those that come later, that the server is going to stop."""
        with self._lock:
            self._are_stopping = True
            streams = list(self._streams)
        for stream in streams:
            stream.stop()


class CompletionStream(CompletionRpc):
    """A Stream that holds no thread."""

    __slots__ = (
        "__weakref__",
        "_ending",
        "_has_received",
        "_idle",
        "_is_stopping",
        "_limits",
        "_on_stop",
        "_pools",
        "_receiver",
        "_reserved",
        "_sent",
    )

    def __init__(
        self, event: Any, state: Any, places: Places, pools: Pools, limits: Limits
    ) -> None:
        super().__init__(event, state, places)
        self._has_received = False
        self._pools = pools
        self._limits = limits
        self._on_stop: Callable[[], None] | None = None
        self._is_stopping = False
        self._receiver: Callable[[bytes | None], None] | None = None
        self._idle: Callable[[], None] | None = None
        self._sent: Callable[[], None] | None = None
        self._ending: list[ServingError | None] = []
        self._reserved = 0

    def ended(self) -> None:
        """Count out what was counted for the stream; the polling thread calls this at its end."""
        with self.lock:
            reserved, self._reserved = self._reserved, 0
        self._limits.budget.give_back(reserved)
        super().ended()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the server is going to stop; at once if it is already."""
        with self.lock:
            self._on_stop = callback
            is_stopping = self._is_stopping
        if is_stopping:
            callback()

    def stop(self) -> None:
        """Call what `on_stop` was given, now or later, because the server is going to stop."""
        with self.lock:
            self._is_stopping = True
            callback = self._on_stop
        if callback is not None:
            self._guarded(callback)

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        """Ask for one message more; never blocks."""
        self._receiver = callback
        self.start_receiving(self._received)

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once nothing more has come."""
        state = self.state
        with self.lock:
            if self.is_active():
                self._idle = callback
                # A batch without operations ends at once. gRPC's queue delivers its event after
                # all earlier events, those of messages included.
                self.call.start_server_batch((), self._became_idle)
                state.due.add(_IDLE)

    def in_thread(self, work: Callable[[], None], *, waits: bool = False) -> None:
        """Have `work` done in a thread of the pool that is for it."""
        pool = self._pools.waiting if waits else self._pools.working
        try:
            pool.submit(self._guarded, work)
        except RuntimeError as error:  # as of unary calls
            self.end(Unavailable(f"no thread can take the request: {error}; try again"))

    def reserve(self, nbytes: int) -> None:
        """Count the bytes of a request as under way, or raise ResourceExhausted."""
        self._limits.take(nbytes)
        with self.lock:
            is_over = self.state.callbacks is None
            if not is_over:
                self._reserved += nbytes
        if is_over:
            self._limits.budget.give_back(nbytes)

    def give_back(self, nbytes: int) -> None:
        """Count out bytes that were reserved."""
        with self.lock:
            if not self._reserved:
                return  # the stream's end has counted them out
            self._reserved -= nbytes
        self._limits.budget.give_back(nbytes)

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        """Send a message; never blocks."""
        state = self.state
        with self.lock:
            if not self.is_active():
                return
            flags = cygrpc.WriteFlag.buffer_hint if more else 0
            operations = [*initial_metadata(state), cygrpc.SendMessageOperation(message, flags)]
            self.call.start_server_batch(operations, self._message_sent)
            state.due.add(_SEND)
            self._sent = sent

    def end(self, error: ServingError | None = None) -> None:
        """End the call, after what is being sent; never blocks."""
        with self.lock:
            if self._sent is not None:
                self._ending.append(error)
                return
        self.finish(None, error)

    def _received(self, event: Any) -> Any:
        if not self._has_received:
            self._has_received = True
            self.places.received(self)
        message = event.batch_operations[0].message()
        ended = self.end_operation(RECEIVE)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            self._guarded(receiver, message)
        return ended

    def _became_idle(self, _event: Any) -> Any:
        ended = self.end_operation(_IDLE)
        idle, self._idle = self._idle, None
        if idle is not None:
            self._guarded(idle)
        return ended

    def _message_sent(self, _event: Any) -> Any:
        with self.lock:
            sent, self._sent = self._sent, None
            ending = self._ending
            ended = self.end_operation(_SEND)
        if ending:
            self.finish(None, ending[0])
        elif sent is not None:
            self._guarded(sent)
        return ended

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call what must not fail: an exception here would end the whole server's polling."""
        try:
            callback(*arguments)
        except Exception:
            logger.exception("a stream failed")
            self.end(ServingError("the server failed on this stream", Code.INTERNAL))
