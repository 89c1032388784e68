"""gRPC reflection, by which tools such as grpcurl learn what can be called and with what."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from ladle.protos.services import pool
from ladle.server.transport.threads import SteadyPool

# Both versions have the same messages on the wire. Tools ask for v1 first, and fall back.
_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
# A stream holds a thread for as long as its caller likes: so they are few, and not those that
# answer requests. One thread more tells the next caller that there are too many.
_MAX_STREAMS = 8


class Reflection:
    """Describes services from our pool of protos. Thread-safe."""

    def __init__(self, services: Iterable[str]) -> None:
        """`services`: full names of what is served, each known to the pool."""
        self._servicer = ReflectionServicer(services, pool=pool())
        self._free = threading.Semaphore(_MAX_STREAMS)
        self._threads = SteadyPool(_MAX_STREAMS + 1, "reflection")

    def register(self, server: grpc.Server) -> None:
        """Make `server` answer ServerReflectionInfo."""

        def behaviour(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            return self._answers(requests, context)

        behaviour.experimental_thread_pool = self._threads  # type: ignore[attr-defined] # grpcio's
        method = grpc.stream_stream_rpc_method_handler(
            behaviour,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": method})
                for service in _SERVICES
            ]
        )

    def _answers(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        if not self._free.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"at most {_MAX_STREAMS} reflection streams are open at a time",
            )
        try:
            yield from self._servicer.ServerReflectionInfo(requests, context)
        finally:
            self._free.release()
