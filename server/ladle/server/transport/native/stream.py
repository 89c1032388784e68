"""Streams of the native transport."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.limits import Limits
from ladle.server.transport.native.pools import Pools
from ladle.server.transport.native.reserved import Reserved

if TYPE_CHECKING:
    from ladle_native import Call

logger = logging.getLogger(__name__)


class NativeStream:
    """A Stream whose messages network threads read and send. Thread-safe.

    The thread that takes events calls `receive`'s, `send`'s and `on_idle`'s callbacks, by
    `received`, `sent` and `idle`.
    """

    __slots__ = (
        "_call",
        "_idle",
        "_limits",
        "_pools",
        "_receiver",
        "_reserved",
        "_sent",
        "_stop",
        "_stopping",
        "deadline",
        "local",
        "metadata",
        "on_end",
    )

    def __init__(self, call: Call, pools: Pools, limits: Limits) -> None:
        self._call = call
        self._pools = pools
        self._limits = limits
        self.deadline: float | None = call.deadline
        self.local: bool = call.local
        self.metadata: Callable[[str], str | None] = call.metadata
        self.on_end: Callable[[Callable[[], None]], None] = call.on_end
        self._receiver: Callable[[bytes | None], None] | None = None
        self._idle: Callable[[], None] | None = None
        self._sent: Callable[[], None] | None = None
        self._stop: Callable[[], None] | None = None
        self._stopping = False
        self._reserved = Reserved(limits.budget)

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the server is going to stop; at once if it is."""
        self._stop = callback
        if self._stopping:
            self.stop()

    def stop(self) -> None:
        """Tell the handler that the server is going to stop."""
        self._stopping = True
        callback, self._stop = self._stop, None
        if callback is not None:
            self._guarded(callback)

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        """Ask for one message more; never blocks."""
        self._receiver = callback
        self._call.receive()

    def received(self, message: bytes | None) -> None:
        """Hand over the message that was asked for."""
        callback, self._receiver = self._receiver, None
        if callback is not None:
            self._guarded(callback, message)

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when all is handed over that has come by now."""
        self._idle = callback
        self._call.idle()

    def idle(self) -> None:
        """Tell that all is handed over."""
        callback, self._idle = self._idle, None
        if callback is not None:
            self._guarded(callback)

    def in_thread(self, work: Callable[[], None], *, waits: bool = False) -> None:
        """Have `work` done in a thread of the pool that is for it."""
        pool = self._pools.waiting if waits else self._pools.working
        try:
            pool.submit(self._guarded, work)
        except RuntimeError as error:
            self.end(Unavailable(f"no thread can take the request: {error}; try again"))

    def reserve(self, nbytes: int) -> None:
        """Count the bytes of a request as under way, or raise ResourceExhausted."""
        self._limits.take(nbytes)
        if self._reserved.add(nbytes):
            self._call.on_end(self._reserved.give_all_back)

    def give_back(self, nbytes: int) -> None:
        """Count out bytes that were reserved."""
        self._reserved.give_back(nbytes)

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        """Send a message; never blocks. What is sent in quick succession travels together."""
        self._sent = sent
        if not self._call.send(message):
            self._sent = None

    def sent(self) -> None:
        """Tell that the connection has taken the message."""
        callback, self._sent = self._sent, None
        if callback is not None:
            self._guarded(callback)

    def end(self, error: ServingError | None = None) -> None:
        """End the call, after what is being sent; never blocks."""
        self._sent = None
        self._call.close(error)

    def _guarded(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Call what must not fail: the thread that takes events has others to tell, too."""
        try:
            callback(*arguments)
        except Exception:
            logger.exception("a stream failed")
            self.end(ServingError("the server failed on this stream", Code.INTERNAL))
