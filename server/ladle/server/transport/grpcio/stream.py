"""Streams: one thread sends a stream's messages, and another reads those that are asked for."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

import grpc

from ladle.server.call import Streaming
from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.limits import Limits
from ladle.server.transport import peer
from ladle.server.transport.grpcio.admission import Admission
from ladle.server.transport.grpcio.call import abort, deadline, metadata

logger = logging.getLogger(__name__)

_IDLE_S = 0.0003
"""A stream on which nothing comes for so long is idle; what has been sent is there sooner."""


class Pools(NamedTuple):
    """Whose threads do what a stream's own thread should not."""

    working: Executor
    """Does what takes long."""
    waiting: Executor
    """Waits for something, so that waiting keeps no thread from working."""
    reading: Executor
    """Reads the messages of streams, one thread for each that waits for a message."""


def streaming(
    method: Streaming, pools: Pools, idling: Idling, limits: Limits, admission: Admission
) -> Any:
    """Return what grpcio calls with each stream; what it returns are the messages to send."""

    def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        stream = ThreadStream(requests, context, pools, idling, limits, admission)
        admission.begin(stream)
        stream.on_end(stream.ended)
        try:
            method.handle(stream)
        except Exception:
            logger.exception("a stream could not begin")
            stream.end(ServingError("the server failed on this stream", Code.INTERNAL))
        return stream.messages()

    return serve


class Idling:
    """A thread that calls streams back on which nothing more has come. Thread-safe."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[ThreadStream | None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the thread, which ends with `stop`."""
        threading.Thread(target=self._run, name="grpc idling", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._asked.put(None)

    def ask(self, stream: ThreadStream) -> None:
        """Have a stream's `idle` called soon."""
        self._asked.put(stream)

    def _run(self) -> None:
        while (stream := self._asked.get()) is not None:
            asked = [stream]
            # Those that ask meanwhile get their time, too.
            for _ in range(self._asked.qsize()):
                if (other := self._asked.get()) is None:
                    return
                asked.append(other)
            time.sleep(_IDLE_S)
            for each in asked:
                each.idle()


class _End:
    def __init__(self, error: ServingError | None) -> None:
        self.error = error


class ThreadStream:
    """A Stream on grpcio's iterators. Thread-safe.

    Callbacks of `receive`, `send` and `on_idle` are called one at a time.
    """

    __slots__ = (
        "_admission",
        "_context",
        "_has_ended",
        "_has_received",
        "_idle",
        "_idling",
        "_is_reading",
        "_is_stopping",
        "_limits",
        "_lock",
        "_on_stop",
        "_outgoing",
        "_pools",
        "_receiver",
        "_requests",
        "_reserved",
        "_turn",
        "deadline",
    )

    def __init__(
        self,
        requests: Iterator[bytes],
        context: grpc.ServicerContext,
        pools: Pools,
        idling: Idling,
        limits: Limits,
        admission: Admission,
    ) -> None:
        self.deadline = deadline(context)
        self._requests = requests
        self._context = context
        self._pools = pools
        self._idling = idling
        self._limits = limits
        self._admission = admission
        self._outgoing: queue.SimpleQueue[tuple[bytes, Callable[[], None]] | _End] = (
            queue.SimpleQueue()
        )
        self._turn = threading.RLock()  # held while a callback runs
        self._lock = threading.Lock()  # guards what follows
        self._receiver: Callable[[bytes | None], None] | None = None
        self._is_reading = False
        self._has_received = False
        self._idle: Callable[[], None] | None = None
        self._on_stop: Callable[[], None] | None = None
        self._is_stopping = False
        self._has_ended = False
        self._reserved: int | None = 0  # None once the stream is over

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine."""
        return peer.is_local(self._context.peer())

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        return metadata(self._context, key)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the stream is over for its caller."""
        if not self._context.add_callback(callback):
            callback()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the server is going to stop; at once if it is already."""
        with self._lock:
            self._on_stop = callback
            is_stopping = self._is_stopping
        if is_stopping:
            callback()

    def stop(self) -> None:
        """Call what `on_stop` was given, now or later, because the server is going to stop."""
        with self._lock:
            self._is_stopping = True
            callback = self._on_stop
        if callback is not None:
            self._guarded(callback)

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        """Ask for one message more; never blocks."""
        with self._lock:
            self._receiver = callback
            if self._is_reading:
                return
            self._is_reading = True
        self._submit(self._pools.reading, self._read)

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once nothing more has come for a moment."""
        with self._lock:
            self._idle = callback
        self._idling.ask(self)

    def idle(self) -> None:
        """Call what `on_idle` was given."""
        with self._lock:
            callback, self._idle = self._idle, None
            has_ended = self._has_ended
        if callback is not None and not has_ended:
            self._in_turn(callback)

    def in_thread(self, work: Callable[[], None], *, waits: bool = False) -> None:
        """Have `work` done in a thread of the pool that is for it."""
        pool = self._pools.waiting if waits else self._pools.working
        self._submit(pool, lambda: self._guarded(work))

    def reserve(self, nbytes: int) -> None:
        """Count the bytes of a request as under way, or raise ResourceExhausted."""
        self._limits.take(nbytes)
        with self._lock:
            if self._reserved is not None:
                self._reserved += nbytes
                return
        self._limits.budget.give_back(nbytes)

    def give_back(self, nbytes: int) -> None:
        """Count out bytes that were reserved."""
        with self._lock:
            if self._reserved is None:
                return  # the stream's end has counted them out
            self._reserved -= nbytes
        self._limits.budget.give_back(nbytes)

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        """Have the stream's thread send a message; never blocks."""
        self._outgoing.put((message, sent))

    def end(self, error: ServingError | None = None) -> None:
        """Have the stream's thread end the call, after what is being sent; never blocks."""
        with self._lock:
            self._has_ended = True
        self._outgoing.put(_End(error))

    def cut_off(self, error: ServingError) -> None:
        """End the call with a status."""
        self.end(error)

    def ended(self) -> None:
        """Count out what was counted for the stream, whose caller knows its end."""
        with self._lock:
            reserved, self._reserved = self._reserved, None
        if reserved:
            self._limits.budget.give_back(reserved)
        self._admission.ended(self)
        self.end()

    def messages(self) -> Iterator[bytes]:
        """Yield what is to be sent, in the stream's own thread, and end the call as was asked."""
        while not isinstance(outgoing := self._outgoing.get(), _End):
            message, sent = outgoing
            del outgoing
            yield message
            # grpcio asks for the next message when the connection has taken this one.
            del message
            if not self._has_ended:
                self._in_turn(sent)
        if outgoing.error is not None:
            abort(self._context, outgoing.error)

    def _read(self) -> None:
        """Read a message, and further ones as long as they are asked for."""
        while True:
            try:
                message = next(self._requests, None)
            except Exception:  # the caller went away; grpcio says so in a way of its own
                message = None
            if not self._has_received:
                self._has_received = True
                self._admission.received(self)
            with self._lock:
                receiver, self._receiver = self._receiver, None
            if receiver is not None:
                self._in_turn(receiver, message)
            del message, receiver
            with self._lock:
                if self._receiver is None:
                    self._is_reading = False
                    return

    def _submit(self, pool: Executor, work: Callable[[], None]) -> None:
        try:
            pool.submit(work)
        except RuntimeError as error:
            # The system has no room for another thread, or the server is stopping.
            self.end(Unavailable(f"no thread can take the request: {error}; try again"))

    def _in_turn(self, callback: Callable[..., None], *arguments: Any) -> None:
        with self._turn:
            self._guarded(callback, *arguments)

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call what must not fail: others need the thread."""
        try:
            callback(*arguments)
        except Exception:
            logger.exception("a stream failed")
            self.end(ServingError("the server failed on this stream", Code.INTERNAL))
