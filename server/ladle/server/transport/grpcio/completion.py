"""Calls without threads: what grpcio's synchronous server does, on the events beneath it.

grpcio gives each call a thread of a pool, which waits for the message, for the answer, and for
its sending; measured, half of a call's CPU goes into these wake-ups. A handler that waits for
nothing can do without: the server lets a handler bring a thread pool of its own
(`experimental_thread_pool`), and the one here, instead of running what it is given, starts the
same operations on the call with callbacks, which grpcio's polling thread calls.

That relies on grpcio's inner parts (grpc/_server.py), so `supported` looks whether they are what
they were; without them `NonBlocking` handlers get a thread for each call, as all others do.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from typing import Any

from ladle.server.call import Call, Handler, NonBlocking, Streaming
from ladle.server.core.errors import Cancelled, Code, ServingError, Unavailable, Unimplemented
from ladle.server.core.observation import Observation
from ladle.server.limits import Limits
from ladle.server.transport.grpcio.admission import Admission
from ladle.server.transport.grpcio.completion_rpc import (
    RECEIVE,
    CompletionRpc,
    Pools,
    cygrpc,
    server,
)
from ladle.server.transport.grpcio.completion_stream import CompletionStream, Streams

logger = logging.getLogger(__name__)

# Larger messages are decoded by a thread of the pool, so that they hold up nobody.
_MAX_INLINE_BYTES = 256 << 10


@cache
def supported() -> bool:
    """Whether the installed grpcio is put together as this module needs it."""
    try:
        parts = list(inspect.signature(server._unary_response_in_pool).parameters)
        state = server._RPCState()
        needed = (state.condition, state.due, state.client, state.statused, state.callbacks)
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
        and callable(server._get_initial_metadata_operation)
    )


class Intake(ThreadPoolExecutor):
    """In grpcio's eyes the pool of a method's threads; it begins calls and runs nothing."""

    def __init__(self, begin: Callable[[Any, Any], None]) -> None:
        """`begin` gets grpcio's event and state of each new call."""
        super().__init__(1)
        self._begin = begin

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Begin the call that grpcio wants run: `fn` is `context.run`, and args what it runs."""
        event, state = args[1], args[2]
        self._begin(event, state)
        return _CallFuture(state)


def unary(
    handler: NonBlocking | Handler, pools: Pools, limits: Limits, admission: Admission
) -> Intake:
    """Return what begins unary calls."""

    def begin(event: Any, state: Any) -> None:
        call = CompletionCall(event, state, handler, pools, limits, admission)
        if admission.admit(call):
            call.begin()

    return Intake(begin)


def refusing(error: ServingError) -> Intake:
    """Return what ends calls of any kind with a status, and reads nothing of them."""
    return Intake(lambda event, state: CompletionRpc(event, state).finish(None, error))


def streaming(
    handler: Streaming, pools: Pools, limits: Limits, admission: Admission, streams: Streams
) -> Intake:
    """Return what begins streams; those that there are can be found in `streams`."""

    def begin(event: Any, state: Any) -> None:
        stream = CompletionStream(event, state, pools, limits, admission)
        if admission.admit(stream):
            streams.add(stream)
            _begin_stream(stream, handler)

    return Intake(begin)


def _begin_stream(stream: CompletionStream, handler: Streaming) -> None:
    try:
        handler.handle(stream)
    except Exception:
        logger.exception("a stream could not begin")
        stream.end(ServingError("the server failed on this stream", Code.INTERNAL))


class _CallFuture:
    """Lets grpcio count the call until it is over."""

    __slots__ = ("_state",)

    def __init__(self, state: Any) -> None:
        self._state = state

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._state.callbacks.append(lambda: callback(self))


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
