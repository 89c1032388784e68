"""Which thread serves a call: grpcio looks up the handler of each here."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import grpc

from ladle.server.call import Methods, NonBlocking, Streaming
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import Limits
from ladle.server.transport.grpcio.admission import Admission, Room
from ladle.server.transport.grpcio.call import abort, unary
from ladle.server.transport.grpcio.stream import Idling, Pools, streaming
from ladle.server.transport.threads import SteadyPool


class Rooms(NamedTuple):
    """Where calls have their threads."""

    waiting: Room
    """Of calls that mostly wait: for their batch, or for what streams bring."""
    blocking: Room
    """Of calls whose handlers work for long."""
    own: Room
    """Of methods that have to answer whatever all others do."""


class RpcHandlers(grpc.GenericRpcHandler):
    """Where grpcio looks up the handler of each call; its polling thread does."""

    def __init__(
        self, methods: Methods, rooms: Rooms, pools: Pools, idling: Idling, limits: Limits
    ) -> None:
        """Take what is served.

        Args:
            methods: the handlers.
            rooms: where calls have their threads.
            pools: whose threads do what those of streams should not do.
            idling: notices when streams are idle.
            limits: what requests may take.
        """
        self.calls = 0
        """How many calls have come."""
        self._refusing = SteadyPool(1, "refusing")
        # Refused calls come in floods, and a handler takes a while to make.
        self._refusal = lru_cache(maxsize=64)(self._make_refusal)
        self._handlers: dict[str, tuple[grpc.RpcMethodHandler[Any, Any], Admission]] = {}
        for path, method in methods.items():
            if isinstance(method, Streaming):
                room = rooms.own if method.has_own_room else rooms.waiting
                serve = streaming(method, pools, idling, limits, room.admission)
                kind = grpc.stream_stream_rpc_method_handler
            else:
                if isinstance(method, NonBlocking):
                    room = rooms.own if method.has_own_room else rooms.waiting
                    serve = unary(method.handle_blocking, limits, room.admission)
                else:
                    room = rooms.blocking
                    serve = unary(method, limits, room.admission)
                kind = grpc.stream_unary_rpc_method_handler
            self._handlers[path] = kind(_in_threads_of(room, serve)), room.admission

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a call, or one that refuses; None for an unknown method."""
        self.calls += 1
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        handler, admission = found
        error = admission.refusal()
        return handler if error is None else self.refusing(error)

    def refusing(self, error: ServingError) -> grpc.RpcMethodHandler[Any, Any]:
        """Return a handler that ends calls with a status, and reads nothing of them."""
        return self._refusal(error.code, error.message, error.retry_after_s)

    def stop(self) -> None:
        """End the thread that refuses."""
        self._refusing.shutdown(wait=False, cancel_futures=True)

    def _make_refusal(
        self, code: Code, message: str, retry_after_s: float | None
    ) -> grpc.RpcMethodHandler[Any, Any]:
        error = ServingError(message, code)
        error.retry_after_s = retry_after_s

        def refuse(_requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            abort(context, error)

        return grpc.stream_unary_rpc_method_handler(_in_threads_of(self._refusing, refuse))


def _in_threads_of(pool: ThreadPoolExecutor, serve: Any) -> Any:
    """Have grpcio serve a method's calls in threads of this pool, and not in the server's own.

    The health service of grpc's own package relies on this attribute, too.
    """
    serve.experimental_thread_pool = pool
    return serve
