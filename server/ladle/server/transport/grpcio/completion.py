"""Calls without threads: what grpcio's synchronous server does, on the events beneath it.

grpcio gives each call a thread of a pool, which waits for the message, for the answer, and for
its sending; measured, half of a call's CPU goes into these wake-ups. A handler that waits for
nothing can do without. The classes here start the same operations on a call with callbacks, which
grpcio's polling thread calls.

That relies on grpcio's inner parts (grpc/_server.py), so `supported` looks whether they are what
they were; without them every call gets a thread.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache
from typing import Any, NamedTuple, Protocol

from grpc import _common, _cython
from grpc import _server as _typed_server

from ladle.server.call import Call, Handler
from ladle.server.core.errors import Cancelled, Code, ServingError, Unavailable, Unimplemented
from ladle.server.core.observation import Observation
from ladle.server.limits import Limits
from ladle.server.transport import peer

# The stubs know nothing of these parts.
cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined]
server: Any = _typed_server

logger = logging.getLogger(__name__)

RECEIVE = "ladle receive"
_STATUS = "ladle status"

MAX_INLINE_BYTES = 256 << 10
"""Larger messages are decoded by a thread of the pool, so that they hold up nobody."""


@cache
def supported() -> bool:
    """Whether the installed grpcio is put together as this module needs it."""
    try:
        parts = list(inspect.signature(server._unary_response_in_pool).parameters)
        state = server._RPCState()
        needed = (state.condition._lock, state.due, state.client, state.statused, state.callbacks)
        cygrpc.ReceiveMessageOperation(0)
        cygrpc.SendInitialMetadataOperation(None, 0)
        cygrpc.SendMessageOperation(b"", 0)
        cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", 0)
    except (AttributeError, TypeError):
        return False
    return (
        parts[:2] == ["rpc_event", "state"]
        and len(needed) == 5
        and callable(server._possibly_finish_call)
    )


class Pools(NamedTuple):
    """Whose threads take what the polling thread should not do itself."""

    working: Executor
    """Handles calls with large requests, and those of blocking handlers."""
    waiting: Executor
    """Handles calls that wait for something, so that waiting keeps no thread from working."""


class Places(Protocol):
    """Who counts calls. Thread-safe."""

    def received(self, call: CompletionRpc) -> None:
        """Note that a call has sent its first message."""

    def ended(self, call: CompletionRpc) -> None:
        """Note that a call is over."""


class CompletionRpc:
    """A call as grpcio has it, and the operations that are under way on it.

    As in grpcio, `state.due` names the operations under way. The end of the last one gives
    `state.callbacks` to the polling thread, which calls them.
    """

    __slots__ = ("_count_out", "call", "event", "lock", "places", "state")

    def __init__(self, event: Any, state: Any, places: Places) -> None:
        self.event = event
        self.call = event.call
        self.state = state
        # The condition's own, because entering the condition itself takes two calls in Python.
        self.lock = state.condition._lock
        """Guards `state`; reentrant."""
        self.places = places
        state.callbacks.append(self.ended)  # without the lock: nobody else has the state yet

    def add_done_callback(self, count_out: Callable[[Any], None]) -> None:
        """Take what counts the call out for grpcio, in whose eyes it is the future of a thread."""
        self._count_out = count_out

    def ended(self) -> None:
        """Count out what was counted for the call; the polling thread calls this at its end."""
        self._count_out(self)
        self.places.ended(self)

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine."""
        return peer.is_local(_common.decode(self.call.peer()))

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""
        # gRPC reports an absent deadline as one in the far future.
        remaining_s: float = self.event.call_details.deadline - time.time()
        return None if remaining_s > threading.TIMEOUT_MAX else time.monotonic() + remaining_s

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        for name, value in self.event.invocation_metadata:
            if name == key:
                return value if isinstance(value, str) else value.decode("latin-1")
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the call is over for its caller."""
        with self.lock:
            callbacks = self.state.callbacks
            if callbacks is not None:
                callbacks.append(callback)
                return
        callback()

    def start_receiving(self, received: Callable[[Any], Any]) -> None:
        """Have `received` get the event with the next message, unless the call is over."""
        state = self.state
        with self.lock:
            if self.is_active():
                self.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
                state.due.add(RECEIVE)

    def end_operation(self, token: str) -> Any:
        """Count out an operation, and return what grpcio's polling thread has to do after it."""
        with self.lock:
            return server._possibly_finish_call(self.state, token)

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        """Send the status, and before it the message, unless the call has ended already."""
        state = self.state
        with self.lock:
            if not self.is_active():
                return
            operations = initial_metadata(state)
            if message is not None:
                operations.append(cygrpc.SendMessageOperation(message, 0))
            operations.append(_status_operation(error))
            self.call.start_server_batch(operations, self._finished)
            state.statused = True
            state.due.add(_STATUS)

    def _finished(self, _event: Any) -> Any:
        return self.end_operation(_STATUS)

    def is_active(self) -> bool:
        """Whether anything can be sent; asked under the state's lock."""
        return self.state.client is not server._CANCELLED and not self.state.statused


class CompletionCall(CompletionRpc):
    """A Call that holds no thread while it waits."""

    __slots__ = ("_handler", "_limits", "_max_inline_bytes", "_nbytes", "_pools", "request")

    shared_observation: Observation | None = None
    """Nothing: the call stands by itself."""

    def __init__(
        self,
        event: Any,
        state: Any,
        places: Places,
        handler: Callable[[Call], Handler | None],
        max_inline_bytes: int,
        pools: Pools,
        limits: Limits,
    ) -> None:
        """Make the call, which has not begun yet.

        Args:
            event: grpcio's.
            state: grpcio's.
            places: who counts the call.
            handler: handles the call; what it returns takes the call over in a thread that waits.
            max_inline_bytes: up to this size of the message the handler is called in the polling
                thread; with -1 never.
            pools: whose threads handle calls otherwise.
            limits: what requests may take.
        """
        super().__init__(event, state, places)
        self._handler = handler
        self._max_inline_bytes = max_inline_bytes
        self._limits = limits
        self._nbytes = 0
        self._pools = pools
        self.request = b""

    def begin(self) -> None:
        """Ask for the request message."""
        self.start_receiving(self._received)

    def ended(self) -> None:
        """Count out what was counted for the call; the polling thread calls this at its end."""
        # A call that still waits for a thread must not keep bytes that no longer count.
        self.request = b""
        if self._nbytes:
            self._limits.budget.give_back(self._nbytes)
        super().ended()

    def discard_request(self) -> None:
        """Free the request message."""
        self.request = b""

    def respond(self, response: bytes) -> None:
        """Send the response message; never blocks."""
        self.finish(response, None)

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        self.finish(None, error)

    def _received(self, event: Any) -> Any:
        self.places.received(self)
        message = event.batch_operations[0].message()
        if message is None:
            if event.success:  # if not, gRPC has ended the call
                self.fail(Unimplemented("expected exactly one request message, got none"))
        else:
            self._take(message)
        return self.end_operation(RECEIVE)

    def _take(self, message: bytes) -> None:
        """Count the message in and handle the call, which can't end before this returns."""
        try:
            self._limits.take(len(message))
        except ServingError as error:
            self._limits.refused(error)
            self.fail(error)
            return
        self.request = message
        self._nbytes = len(message)
        if len(message) <= self._max_inline_bytes:
            self._begin_handling()
        else:
            self._in_thread(self._pools.working, self._begin_late)

    def _begin_late(self) -> None:
        """Begin after a wait for a thread, unless the caller has gone meanwhile."""
        with self.lock:
            active = self.is_active()
        if active:
            self._begin_handling()
        else:
            self._limits.refused(Cancelled("the caller went away"))

    def _begin_handling(self) -> None:
        blocking = self._handle(self._handler)
        if blocking is not None:
            self._in_thread(self._pools.waiting, self._handle, blocking)

    def _in_thread(self, pool: Executor, work: Callable[..., object], *arguments: Any) -> None:
        try:
            pool.submit(work, *arguments)
        except RuntimeError as error:
            # The system has no room for another thread, or the server is stopping. Raised where
            # calls begin, this would end gRPC's polling, and with it all calls.
            self.fail(Unavailable(f"no thread can take the request: {error}; try again"))

    def _handle(self, handler: Callable[[Call], Handler | None]) -> Handler | None:
        try:
            return handler(self)
        except Exception:
            logger.exception("a request could not be handled")
            self.fail(ServingError("the server failed on this request", Code.INTERNAL))
            return None


def initial_metadata(state: Any) -> list[Any]:
    """Return the operation that has to come first, once."""
    if not state.initial_metadata_allowed:
        return []
    state.initial_metadata_allowed = False
    return [cygrpc.SendInitialMetadataOperation(None, 0)]


def _status_operation(error: ServingError | None) -> Any:
    if error is None:
        return cygrpc.SendStatusFromServerOperation(None, cygrpc.StatusCode.ok, b"", 0)
    return cygrpc.SendStatusFromServerOperation(
        trailing_metadata(error), int(error.code), _common.encode(error.message), 0
    )


def trailing_metadata(error: ServingError) -> tuple[tuple[str, str], ...] | None:
    """Return what goes with the status, besides code and message."""
    if error.retry_after_s is None:
        return None
    # https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
    return (("grpc-retry-pushback-ms", str(max(1, round(error.retry_after_s * 1000)))),)
