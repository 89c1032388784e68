"""How calls come in: each finds its method and a place, and begins without a thread.

grpcio's server lets a handler bring a thread pool of its own (`experimental_thread_pool`). The one
here, an Intake, begins a call instead of running what it is given.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol

import grpc

from ladle.server.call import Call, Handler, Methods, NonBlocking, Streaming
from ladle.server.core.errors import Code, DeadlineExceeded, ServingError, Unavailable
from ladle.server.limits import Limits
from ladle.server.transport.grpcio import completion
from ladle.server.transport.grpcio.completion import (
    MAX_INLINE_BYTES,
    CompletionCall,
    CompletionRpc,
    Pools,
)
from ladle.server.transport.grpcio.completion_stream import CompletionStream, Streams
from ladle.server.transport.grpcio.thread_call import STATUS, serving

logger = logging.getLogger(__name__)

# Callers send their message with the headers; what takes longer is a slow network.
MESSAGE_TIMEOUT_S = 30.0
# If all places are taken, a call that has sent nothing for so long loses its place to a new one.
_LEAST_S = 1.0


class RpcHandlers(grpc.GenericRpcHandler):
    """Where grpcio looks up the handler of each call."""

    def __init__(
        self,
        methods: Methods,
        pools: Pools,
        limits: Limits,
        admission: Admission,
        own_room: Admission,
    ) -> None:
        """Take what is served.

        Args:
            methods: the handlers.
            pools: whose threads take what the polling thread should not do.
            limits: what requests may take.
            admission: has the places of calls.
            own_room: has the places of calls to methods with room of their own.
        """
        self.streams = Streams()
        """Those that there are."""
        self._handlers = {
            path: _rpc_handler(
                method,
                pools,
                limits,
                own_room if getattr(method, "has_own_room", False) else admission,
                self.streams,
            )
            for path, method in methods.items()
        }
        self.calls = 0
        """How many calls have come."""
        # Refused calls come in floods, and making the handler that refuses them takes long.
        self._refusal = lru_cache(maxsize=64)(_rpc_refusal)

    def refusing(self, error: ServingError) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that ends calls with a status, and reads nothing of them."""
        return self._refusal(error.code, error.message)

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, None for an unknown method; the polling thread calls."""
        self.calls += 1
        return self._handlers.get(handler_call_details.method)


class Intake(ThreadPoolExecutor):
    """In grpcio's eyes the pool of a method's threads; it begins calls and runs nothing."""

    def __init__(self, begin: Callable[[Any, Any], CompletionRpc]) -> None:
        """`begin` gets grpcio's event and state of each new call."""
        super().__init__(1)
        self._begin = begin

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Begin the call that grpcio wants run: `fn` is `context.run`, and args what it runs.

        The call is returned as the future that grpcio expects.
        """
        return self._begin(args[1], args[2])


def _rpc_handler(
    method: Handler | NonBlocking | Streaming,
    pools: Pools,
    limits: Limits,
    admission: Admission,
    streams: Streams,
) -> grpc.RpcMethodHandler[Any, Any]:
    if isinstance(method, Streaming):
        return _streaming(_streams_intake(method, pools, limits, admission, streams))
    handle: Callable[[Call], Handler | None]
    if isinstance(method, NonBlocking):
        handle, inline_bytes = method.handle, MAX_INLINE_BYTES
        behaviour = serving(method.handle_blocking, limits)
    else:
        handle, inline_bytes = method, -1
        behaviour = serving(method, limits)
    if completion.supported():

        def begin(event: Any, state: Any) -> CompletionRpc:
            call = CompletionCall(event, state, admission, handle, inline_bytes, pools, limits)
            if admission.admit(call):
                call.begin()
            return call

        behaviour.experimental_thread_pool = Intake(begin)
    return grpc.unary_unary_rpc_method_handler(behaviour)


def _streams_intake(
    handler: Streaming, pools: Pools, limits: Limits, admission: Admission, streams: Streams
) -> Intake:
    def begin(event: Any, state: Any) -> CompletionRpc:
        stream = CompletionStream(event, state, admission, pools, limits)
        if admission.admit(stream):
            streams.add(stream)
            try:
                handler.handle(stream)
            except Exception:
                logger.exception("a stream could not begin")
                stream.end(ServingError("the server failed on this stream", Code.INTERNAL))
        return stream

    return Intake(begin)


def _rpc_refusal(code: Code, message: str) -> grpc.RpcMethodHandler[Any, Any]:
    def begin(event: Any, state: Any) -> CompletionRpc:
        call = CompletionRpc(event, state, _Uncounted())
        call.finish(None, ServingError(message, code))
        return call

    def refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
        context.abort(STATUS[code.value], message)

    # As a stream, which needs no message to begin; it does for unary calls, too.
    return _streaming(Intake(begin), refuse)


class _Uncounted:
    """Has places for any number of calls."""

    def received(self, call: CompletionRpc) -> None:
        pass

    def ended(self, call: CompletionRpc) -> None:
        pass


def _unsupported(_requests: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "streams need another version of grpcio")


def _streaming(
    intake: Intake, otherwise: Callable[..., Any] = _unsupported
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler whose calls `intake` begins, or `otherwise` handles in a thread."""

    def behaviour(requests: Any, context: grpc.ServicerContext) -> Any:
        otherwise(requests, context)

    if completion.supported():
        behaviour.experimental_thread_pool = intake  # type: ignore[attr-defined]
    return grpc.stream_stream_rpc_method_handler(behaviour)


class Admitted(Protocol):
    """A call that may be ended before its first message has come."""

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        """End the call with a status; without effect once it has ended."""


class Admission:
    """Counts the calls under way. Thread-safe."""

    def __init__(
        self,
        most: int,
        refused: Callable[[ServingError], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what bounds the calls.

        Args:
            most: how many there may be at a time.
            refused: is called with the refusal of each call that is ended here.
            clock: the time, in seconds.
        """
        self._most = most
        self._refused = refused
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._calls: set[Admitted] = set()
        self._silent: dict[Admitted, float] = {}  # since when, the oldest first

    @property
    def under_way(self) -> int:
        """How many calls have been taken and have not ended."""
        return len(self._calls)

    def admit(self, call: Admitted) -> bool:
        """Take a call that has just come, or end it; return whether it was taken.

        `ended` has to be called when it is over, whether it was taken or not.
        Without a place for it, the call that has been silent for longest gives its own.
        """
        now = self._clock()
        silent: Admitted | None = None
        with self._lock:
            is_full = len(self._calls) >= self._most
            if is_full:
                silent = self._pop_silent(now - _LEAST_S)
            is_taken = silent is not None or not is_full
            if is_taken:
                self._calls.add(call)
                self._silent[call] = now
        if silent is not None:
            self._end(silent, _late(_LEAST_S))
        elif is_full:
            self._end(call, self._no_place())
        return is_taken

    def received(self, call: Admitted) -> None:
        """Note that a call has sent its first message."""
        with self._lock:
            self._silent.pop(call, None)

    def ended(self, call: Admitted) -> None:
        """Give up the place of a call that is over."""
        with self._lock:
            self._calls.discard(call)
            self._silent.pop(call, None)

    def end_silent(self) -> None:
        """End the calls that have sent no message for MESSAGE_TIMEOUT_S."""
        before = self._clock() - MESSAGE_TIMEOUT_S
        while True:
            with self._lock:
                call = self._pop_silent(before)
            if call is None:
                return
            self._end(call, _late(MESSAGE_TIMEOUT_S))

    def end_all(self, error: ServingError) -> None:
        """End every call that is under way with a status."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.finish(None, error)

    def _pop_silent(self, before: float) -> Admitted | None:
        """Return the oldest call that was silent before then. The lock is held."""
        for call, since in self._silent.items():
            if since > before:
                break
            del self._silent[call]
            return call
        return None

    def _end(self, call: Admitted, error: ServingError) -> None:
        call.finish(None, error)
        self._refused(error)

    def _no_place(self) -> Unavailable:
        error = Unavailable(
            f"{self._most} calls are under way already (128 for each of --grpc_max_threads); "
            "try again later"
        )
        error.retry_after_s = 0.1
        error.reason = "calls"
        return error


def _late(seconds: float) -> DeadlineExceeded:
    error = DeadlineExceeded(f"expected a request message within {seconds:g} s, got none")
    error.reason = "no_message"
    return error
