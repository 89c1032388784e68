"""Unary calls without threads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from ladle.server.call import Call, Handler, NonBlocking
from ladle.server.core.errors import Cancelled, Code, ServingError, Unavailable, Unimplemented
from ladle.server.core.observation import Observation
from ladle.server.limits import Limits
from ladle.server.transport.grpcio.admission import Admission
from ladle.server.transport.grpcio.completion_rpc import RECEIVE, CompletionRpc, Pools

logger = logging.getLogger(__name__)

# Larger messages are decoded by a thread of the pool, so that they hold up nobody.
_MAX_INLINE_BYTES = 256 << 10


class CompletionCall(CompletionRpc):
    """A Call that holds no thread."""

    __slots__ = ("_admission", "_handler", "_limits", "_nbytes", "_pools", "request")

    def __init__(
        self,
        event: Any,
        state: Any,
        handler: NonBlocking | Handler,
        pools: Pools,
        limits: Limits,
        admission: Admission,
    ) -> None:
        super().__init__(event, state)
        self._admission = admission
        self._handler = handler
        self._limits = limits
        self._nbytes = 0
        self._pools = pools
        self.request = b""

    @property
    def shared_observation(self) -> Observation | None:
        """Nothing: the call stands by itself."""
        return None

    def begin(self) -> None:
        """Ask for the request message."""
        self.start_receiving(self._received)

    def discard_request(self) -> None:
        """Let go of the request message."""
        self.request = b""

    def respond(self, response: bytes) -> None:
        """Send the response message; never blocks."""
        self.finish(response, None)

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        self.finish(None, error)

    def _received(self, event: Any) -> Any:
        self._admission.received(self)
        message = event.batch_operations[0].message()
        if message is None:
            if event.success:  # if not, gRPC has ended the call
                self.fail(Unimplemented("expected exactly one request message, got none"))
        else:
            self._take(message)
        return self.end_operation(RECEIVE)

    def _take(self, message: bytes) -> None:
        try:
            self._limits.take(len(message))
        except ServingError as error:
            self._limits.refused(error)
            self.fail(error)
            return
        self.request = message
        self._nbytes = len(message)
        self.on_end(self._give_back)
        if isinstance(self._handler, NonBlocking) and len(message) <= _MAX_INLINE_BYTES:
            self._begin_handling()
        else:
            self._in_thread(self._pools.working, self._begin_late)

    def _begin_late(self) -> None:
        """Begin after a wait for a thread, unless the caller has gone meanwhile."""
        with self.state.condition:
            active = self.is_active()
        if active:
            self._begin_handling()
        else:
            self._limits.refused(Cancelled("the caller went away"))

    def _begin_handling(self) -> None:
        if not isinstance(self._handler, NonBlocking):
            self._handle(self._handler)
            return
        blocking = self._handle(self._handler.handle)
        if blocking is not None:
            self._in_thread(self._pools.waiting, self._handle, blocking)

    def _in_thread(self, pool: Executor, work: Callable[..., object], *arguments: Any) -> None:
        try:
            pool.submit(work, *arguments)
        except RuntimeError as error:
            # The system has no room for another thread, or the server is stopping. Raised where
            # calls begin, this would end gRPC's polling, and with it all calls.
            self.fail(Unavailable(f"no thread can take the request: {error}; try again"))

    def _give_back(self) -> None:
        # Whoever waits for a thread must not keep bytes that no longer count.
        self.request = b""
        self._limits.budget.give_back(self._nbytes)

    def _handle(self, handler: Callable[[Call], Handler | None]) -> Handler | None:
        try:
            return handler(self)
        except Exception:
            logger.exception("a request could not be handled")
            self.fail(ServingError("the server failed on this request", Code.INTERNAL))
            return None
