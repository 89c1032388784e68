"""Begins calls: each method's handler, behind what the transport owes to every call."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from ladle_native import Group

from ladle.server.call import Handler, NonBlocking, Streaming
from ladle.server.core.errors import Cancelled, Code, ServingError, Unavailable
from ladle.server.limits import Limits
from ladle.server.transport.native.pools import Pools
from ladle.server.transport.native.stream import NativeStream

if TYPE_CHECKING:
    from ladle_native import Call

logger = logging.getLogger(__name__)

# Larger messages are decoded by a thread of the pool, so that they hold up nobody.
_MAX_INLINE_BYTES = 256 << 10


class Unary:
    """Begins unary calls of one method; never blocks, and never raises."""

    def __init__(self, method: Handler | NonBlocking, pools: Pools, limits: Limits) -> None:
        self._pools = pools
        self._limits = limits
        self._non_blocking = method.handle if isinstance(method, NonBlocking) else None
        self._blocking = None if isinstance(method, NonBlocking) else method
        self._alike = method.alike if isinstance(method, NonBlocking) else None

    def begin(self, call: Call | Group) -> None:
        """Have the call handled, with its request, or each of a group."""
        if isinstance(call, Group):
            if self._alike is None or not self._alike.handle(call):
                for member in range(len(call)):
                    self.begin(call.call(member))
        elif self._non_blocking is None:
            self._in_thread(call, self._pools.working, self._handle_new, self._blocking)
        elif call.nbytes <= _MAX_INLINE_BYTES:
            self._handle_new(call, self._non_blocking)
        else:
            self._in_thread(call, self._pools.working, self._handle_new, self._non_blocking)

    def _handle_new(self, call: Call, handler: Callable[[Call], Handler | None]) -> None:
        """Handle a call, unless the caller has gone since it came: its message went, too."""
        if not call.request and call.is_over:
            self._limits.refused(Cancelled("the caller went away"), 1)
        else:
            self._handle(call, handler)

    def _handle(self, call: Call, handler: Callable[[Call], Handler | None]) -> None:
        try:
            blocking = handler(call)
        except Exception:
            logger.exception("a request could not be handled")
            call.fail(ServingError("the server failed on this request", Code.INTERNAL))
            return
        if blocking is not None:
            self._in_thread(call, self._pools.waiting, self._handle, blocking)

    def _in_thread(
        self, call: Call, pool: Executor, work: Callable[..., object], handler: Any
    ) -> None:
        try:
            pool.submit(work, call, handler)
        except RuntimeError as error:
            # The system has no room for another thread, or the server is stopping.
            call.fail(Unavailable(f"no thread can take the request: {error}; try again"))


class Streams:
    """Begins streams, and knows those that there are. Used by one thread but for `stop`."""

    def __init__(self, pools: Pools, limits: Limits) -> None:
        self._pools = pools
        self._limits = limits
        self._streams: dict[int, NativeStream] = {}
        self._stopping = False

    def beginning(self, method: Streaming) -> Callable[[Call], None]:
        """Return what begins streams of a method."""

        def begin(call: Call) -> None:
            stream = NativeStream(call, self._pools, self._limits)
            self._streams[call.id] = stream
            if self._stopping:
                stream.stop()
            try:
                method.handle(stream)
            except Exception:
                logger.exception("a stream could not begin")
                stream.end(ServingError("the server failed on this stream", Code.INTERNAL))

        return begin

    def tell(self, kind: str, call_id: int, message: bytes | None) -> None:
        """Tell a stream what has happened to it."""
        if kind == "ended":
            self._streams.pop(call_id, None)  # calls that are no streams end, too
            return
        stream = self._streams.get(call_id)
        if stream is None:
            return
        if kind == "message":
            stream.received(message)
        elif kind == "sent":
            stream.sent()
        else:
            stream.idle()

    def stop(self) -> None:
        """Tell all of them that the server is going to stop; in any thread."""
        self._stopping = True
        for stream in list(self._streams.values()):
            stream.stop()
