"""The standard health service, Check and Watch, on a grpcio server.

grpcio's own package waits for each watcher to be told, and holds a lock meanwhile that gRPC's
polling thread needs when a watcher goes: a change and a watcher's leaving at the same moment would
end all calls of the server, and one who doesn't read would hold up everybody who asks.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from ladle.protos.health_pb import HealthCheckRequest, HealthCheckResponse
from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import InvalidArgument, ResourceExhausted, ServingError, Unavailable
from ladle.server.transport.threads import SteadyPool

SERVICE = "grpc.health.v1.Health"

# Apart from the threads that run models, so that a busy server still says that it is well.
_THREADS = 2
# Watchers hold no thread, but each takes memory, and so does each name that is watched, known or
# not. Nobody needs a token for it.
_MAX_WATCHERS = 4096
_MAX_WATCHED_NAMES = 1024


class Health:
    """Tells callers whether names serve: `""` for the whole, services, models. Thread-safe.

    A name that was never set is NOT_FOUND to Check, and SERVICE_UNKNOWN to Watch. Nothing here
    waits for a caller.
    """

    def __init__(self) -> None:
        self._pool = SteadyPool(_THREADS, "health")
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {"": HealthCheckResponse.NOT_SERVING}
        self._watchers: dict[str, set[_Watcher]] = {}  # by the name that they watch
        self._watching = 0
        self._is_final = False
        self._closed = False

    def register(self, server: grpc.Server, watch: grpc.RpcMethodHandler[Any, Any]) -> None:
        """Make `server` answer grpc.health.v1.Health, Watch by the handler made of `watch`."""

        def check(request: HealthCheckRequest, context: grpc.ServicerContext) -> Any:
            return self._check(request, context)

        check.experimental_thread_pool = self._pool  # type: ignore[attr-defined] # grpcio's
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(
                check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
            ),
            "Watch": watch,
        }
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])

    @property
    def watch(self) -> Streaming:
        """What answers Watch."""
        return Streaming(self._watch)

    def set(self, name: str, serving: bool | None) -> None:
        """State whether `name` serves, to those who ask and those who watch; None forgets it."""
        with self._lock:
            if self._is_final:
                return
            if serving is None:
                self._statuses.pop(name, None)
                self._tell(name)
            else:
                self._state(name, serving=serving)

    def serves(self, name: str) -> bool:
        """Whether `name` is said to serve."""
        with self._lock:
            return self._statuses.get(name) == HealthCheckResponse.SERVING

    def shut_down(self) -> None:
        """Make every name NOT_SERVING, for good."""
        with self._lock:
            self._is_final = True
            for name in self._statuses:
                self._state(name, serving=False)

    def close(self) -> None:
        """End the streams of those who watch, which would otherwise never end."""
        with self._lock:
            self._closed = True
            streams = [each.stream for watchers in self._watchers.values() for each in watchers]
        for stream in streams:
            stream.end()

    def _state(self, name: str, *, serving: bool) -> None:
        self._statuses[name] = (
            HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        )
        self._tell(name)

    def _tell(self, name: str) -> None:
        status = self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN)
        for watcher in self._watchers.get(name, ()):
            watcher.tell(status)

    def _check(
        self, request: HealthCheckRequest, context: grpc.ServicerContext
    ) -> HealthCheckResponse:
        with self._lock:
            status = self._statuses.get(request.service)
        if status is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
        return HealthCheckResponse(status=status)

    def _watch(self, stream: Stream) -> None:
        def received(message: bytes | None) -> None:
            try:
                watcher = self._add(stream, message)
            except ServingError as error:
                stream.end(error)
            else:
                stream.on_end(lambda: self._remove(watcher))

        stream.receive(received)

    def _add(self, stream: Stream, message: bytes | None) -> _Watcher:
        if message is None:
            raise InvalidArgument("expected one HealthCheckRequest, got none")
        try:
            name = HealthCheckRequest.FromString(message).service
        except DecodeError:
            raise InvalidArgument("expected a HealthCheckRequest, and it can't be read") from None
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping: ask another")
            if self._watching >= _MAX_WATCHERS:
                raise ResourceExhausted("too many watch already")
            if name not in self._watchers and len(self._watchers) >= _MAX_WATCHED_NAMES:
                raise ResourceExhausted("too many names are watched")
            watcher = _Watcher(stream, name, self._lock)
            self._watchers.setdefault(name, set()).add(watcher)
            self._watching += 1
            watcher.tell(self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN))
        return watcher

    def _remove(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watching -= 1
            watchers = self._watchers[watcher.name]
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[watcher.name]


class _Watcher:
    """Who watches a name. One word is on its way at a time; of those meanwhile the last counts."""

    def __init__(self, stream: Stream, name: str, lock: threading.Lock) -> None:
        """`lock` is held around `tell`."""
        self.stream = stream
        self.name = name
        self._lock = lock
        self._latest: int | None = None
        self._told: int | None = None
        self._is_sending = False

    def tell(self, status: int) -> None:
        """Say how things stand, as soon as the connection has taken what was said before."""
        self._latest = status
        if self._is_sending or status == self._told:
            return
        self._is_sending = True
        self._told = status
        self.stream.send(HealthCheckResponse(status=status).SerializeToString(), self._sent)

    def _sent(self) -> None:
        with self._lock:
            self._is_sending = False
            assert self._latest is not None  # something was said
            self.tell(self._latest)
