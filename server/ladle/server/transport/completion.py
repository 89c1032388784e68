"""Calls without threads: what grpcio's synchronous server does, on the events beneath it.

grpcio gives each call a thread of a pool, which waits for the message, for the answer, and for
its sending; measured, half of a call's CPU goes into these wake-ups. A handler that waits for
nothing can do without: the server lets a handler bring a thread pool of its own
(`experimental_thread_pool`), and the one here, instead of running what it is given, starts the
same operations on the call with callbacks, which grpcio's polling thread calls.

That relies on grpcio's inner parts (grpc/_server.py), so `supported` looks whether they are what
they were; without them `Prompt` handlers get a thread for each call, as all others do.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

from grpc import _common, _cython
from grpc import _server as _typed_server

from ladle.server.call import Call, Handler, Prompt, Streaming
from ladle.server.core.errors import Code, ServingError, Unimplemented
from ladle.server.transport import peer
from ladle.server.transport.budget import Limits

# The stubs know nothing of these parts.
cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined]
_server: Any = _typed_server

logger = logging.getLogger(__name__)

# Larger messages are decoded by a thread of the pool, so that they hold up nobody.
_MAX_INLINE_BYTES = 256 << 10

_RECEIVE = "ladle receive"
_SEND = "ladle send"
_STATUS = "ladle status"


def supported() -> bool:
    """Whether the installed grpcio is put together as this module needs it."""
    try:
        parts = list(inspect.signature(_server._unary_response_in_pool).parameters)
        state = _server._RPCState()
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
        and callable(_server._possibly_finish_call)
        and callable(_server._get_initial_metadata_operation)
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


class Pools(NamedTuple):
    """Whose threads take what the polling thread should not do itself."""

    working: Executor
    """Handles calls with large requests, and those of blocking handlers."""
    waiting: Executor
    """Handles calls that wait for something, so that waiting keeps no thread from working."""


def unary(handler: Prompt, pools: Pools, limits: Limits) -> Intake:
    """Return what begins unary calls."""
    return Intake(lambda event, state: CompletionCall(event, state, handler, pools, limits).begin())


def streaming(
    handler: Streaming, limits: Limits, streams: weakref.WeakSet[CompletionStream]
) -> Intake:
    """Return what begins streams; those that there are can be found in `streams`."""

    def begin(event: Any, state: Any) -> None:
        stream = CompletionStream(event, state, limits)
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


class _Rpc:
    """What calls and streams have in common.

    As in grpcio: `state.due` names the operations under way, and when the last one has ended,
    whoever ends it hands `state.callbacks` to the polling thread.
    """

    __slots__ = ("_call", "_event", "_state")

    def __init__(self, event: Any, state: Any) -> None:
        self._event = event
        self._call = event.call
        self._state = state

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine."""
        return peer.is_local(_common.decode(self._call.peer()))

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""
        # gRPC tells of an absent deadline as one in the far future.
        remaining_s: float = self._event.call_details.deadline - time.time()
        return None if remaining_s > threading.TIMEOUT_MAX else time.monotonic() + remaining_s

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        for name, value in self._event.invocation_metadata:
            if name == key:
                return value if isinstance(value, str) else value.decode("latin-1")
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the call is over for its caller."""
        with self._state.condition:
            callbacks = self._state.callbacks
            if callbacks is not None:
                callbacks.append(callback)
                return
        callback()

    def _start_receiving(self, received: Callable[[Any], Any]) -> None:
        state = self._state
        with state.condition:
            if self._is_active():
                self._call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
                state.due.add(_RECEIVE)

    def _end_operation(self, token: str) -> Any:
        with self._state.condition:
            return _server._possibly_finish_call(self._state, token)

    def _finish(self, message: bytes | None, error: ServingError | None) -> None:
        """Send the status, and before it the message, unless the call has ended already."""
        state = self._state
        with state.condition:
            if not self._is_active():
                return
            operations = []
            if state.initial_metadata_allowed:
                operations.append(_server._get_initial_metadata_operation(state, None))
                state.initial_metadata_allowed = False
            if message is not None:
                operations.append(cygrpc.SendMessageOperation(message, 0))
            operations.append(_status_operation(error))
            self._call.start_server_batch(operations, self._finished)
            state.statused = True
            state.due.add(_STATUS)

    def _finished(self, _event: Any) -> Any:
        return self._end_operation(_STATUS)

    def _is_active(self) -> bool:
        return self._state.client is not _server._CANCELLED and not self._state.statused


class CompletionCall(_Rpc):
    """A Call that holds no thread."""

    __slots__ = ("_handler", "_limits", "_pools", "request")

    def __init__(
        self, event: Any, state: Any, handler: Prompt, pools: Pools, limits: Limits
    ) -> None:
        super().__init__(event, state)
        self._handler = handler
        self._limits = limits
        self._pools = pools
        self.request = b""

    def begin(self) -> None:
        """Ask for the request message."""
        self._start_receiving(self._received)

    def answer(self, response: bytes) -> None:
        """Send the response message; never blocks."""
        self._finish(response, None)

    def refuse(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        self._finish(None, error)

    def _received(self, event: Any) -> Any:
        message = event.batch_operations[0].message()
        if message is None:
            if event.success:  # if not, gRPC has ended the call
                self.refuse(Unimplemented("expected exactly one request message, got none"))
        else:
            self._take(message)
        return self._end_operation(_RECEIVE)

    def _take(self, message: bytes) -> None:
        try:
            self._limits.take(len(message))
        except ServingError as error:
            self.refuse(error)
            return
        self.request = message
        self.on_end(self._give_back)
        if len(message) <= _MAX_INLINE_BYTES:
            self._begin_handling()
        else:
            self._pools.working.submit(self._begin_handling)

    def _begin_handling(self) -> None:
        blocking = self._handle(self._handler.handle)
        if blocking is not None:
            self._pools.waiting.submit(self._handle, blocking)

    def _give_back(self) -> None:
        self._limits.budget.give_back(len(self.request))

    def _handle(self, handler: Callable[[Call], Handler | None]) -> Handler | None:
        try:
            return handler(self)
        except Exception:
            logger.exception("a request could not be handled")
            self.refuse(ServingError("the server failed on this request", Code.INTERNAL))
            return None


class CompletionStream(_Rpc):
    """A Stream that holds no thread."""

    __slots__ = ("__weakref__", "_ending", "_limits", "_receiver", "_sent", "_stop")

    def __init__(self, event: Any, state: Any, limits: Limits) -> None:
        super().__init__(event, state)
        self._limits = limits
        self._stop: Callable[[], None] | None = None
        self._receiver: Callable[[bytes | None], None] | None = None
        self._sent: Callable[[], None] | None = None
        self._ending: list[ServingError | None] = []

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the server is going to stop."""
        self._stop = callback

    def stop(self) -> None:
        """Tell the handler that the server is going to stop."""
        if self._stop is not None:
            self._guarded(self._stop)

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        """Ask for one message more; never blocks."""
        self._receiver = callback
        self._start_receiving(self._received)

    def send(self, message: bytes, sent: Callable[[], None]) -> None:
        """Send a message; never blocks."""
        state = self._state
        with state.condition:
            if not self._is_active():
                return
            operations = []
            if state.initial_metadata_allowed:
                operations.append(_server._get_initial_metadata_operation(state, None))
                state.initial_metadata_allowed = False
            operations.append(cygrpc.SendMessageOperation(message, 0))
            self._call.start_server_batch(operations, self._message_sent)
            state.due.add(_SEND)
            self._sent = sent

    def end(self, error: ServingError | None = None) -> None:
        """End the call, after what is being sent; never blocks."""
        with self._state.condition:
            if self._sent is not None:
                self._ending.append(error)
                return
        self._finish(None, error)

    def _received(self, event: Any) -> Any:
        message = event.batch_operations[0].message()
        ended = self._end_operation(_RECEIVE)
        receiver, self._receiver = self._receiver, None
        if message is not None and len(message) > self._limits.max_request_bytes:
            self.end(self._limits.too_large(len(message)))
        elif receiver is not None:
            self._guarded(lambda: receiver(message))
        return ended

    def _message_sent(self, _event: Any) -> Any:
        with self._state.condition:
            sent, self._sent = self._sent, None
            ending = self._ending
            ended = self._end_operation(_SEND)
        if ending:
            self._finish(None, ending[0])
        elif sent is not None:
            self._guarded(sent)
        return ended

    def _guarded(self, callback: Callable[[], None]) -> None:
        """Call what must not fail: an exception here would end the whole server's polling."""
        try:
            callback()
        except Exception:
            logger.exception("a stream failed")
            self.end(ServingError("the server failed on this stream", Code.INTERNAL))


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
