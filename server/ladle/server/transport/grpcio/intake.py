"""How calls come in: each finds its method and a place, and begins without a thread.

grpcio's server lets a handler bring a thread pool of its own (`experimental_thread_pool`). The one
here, an Intake, begins a call instead of running what it is given.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import grpc

from ladle.server.call import Handler, Methods, NonBlocking, Streaming
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import Limits
from ladle.server.transport.grpcio import completion
from ladle.server.transport.grpcio.admission import Admission
from ladle.server.transport.grpcio.completion import CompletionCall, CompletionRpc, Pools
from ladle.server.transport.grpcio.completion_stream import CompletionStream, Streams
from ladle.server.transport.grpcio.thread_call import STATUS, serving

logger = logging.getLogger(__name__)


class RpcHandlers(grpc.GenericRpcHandler):
    """What grpcio asks for the handler of each call."""

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
        # Refused calls come in floods, and the handler that refuses them is dear to make.
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
    blocking = method.handle_blocking if isinstance(method, NonBlocking) else method
    behaviour = serving(blocking, limits)
    if completion.supported():

        def begin(event: Any, state: Any) -> CompletionRpc:
            call = CompletionCall(event, state, admission, method, pools, limits)
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
