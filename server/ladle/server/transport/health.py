"""The standard health service, Check and Watch, on a grpcio server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from functools import wraps
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ladle.server.transport.threads import SteadyPool

_Status = health_pb2.HealthCheckResponse

# Apart from the threads that run models, so that a busy server still says that it is well.
_THREADS = 2
# Watchers hold no thread, but each takes memory, and so does each name that is watched, known or
# not. Nobody needs a token for it.
_MAX_WATCHERS = 4096
_MAX_WATCHED_NAMES = 1024


class Health:
    """Tells callers whether names serve: `""` for the whole, services, models. Thread-safe.

    A name that was never set is NOT_FOUND to Check, and SERVICE_UNKNOWN to Watch.
    """

    def __init__(self) -> None:
        self._pool = SteadyPool(_THREADS, "health")
        self._servicer = _Servicer(self._pool)
        self._servicer.set("", _Status.NOT_SERVING)

    def register(self, server: grpc.Server) -> None:
        """Make `server` answer grpc.health.v1.Health."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def set(self, name: str, serving: bool | None) -> None:
        """State whether `name` serves, to those who ask and those who watch; None forgets it."""
        if serving is None:
            self._servicer.forget(name)
        else:
            self._servicer.change(name, _Status.SERVING if serving else _Status.NOT_SERVING)

    def serves(self, name: str) -> bool:
        """Whether `name` is said to serve."""
        return bool(self._servicer.state(name) == _Status.SERVING)

    def shut_down(self) -> None:
        """Make every name NOT_SERVING, for good."""
        self._servicer.enter_graceful_shutdown()

    def close(self) -> None:
        """End the streams of those who watch, which would otherwise never end."""
        self._servicer.end_watches()


class _Servicer(health.HealthServicer):  # type: ignore[misc]
    """The package's own, which keeps what nobody watches any more, and tells what is not new."""

    def __init__(self, pool: Executor) -> None:
        super().__init__(experimental_non_blocking=True, experimental_thread_pool=pool)
        self._watchers = 0
        # grpcio looks for the pool on the function. The package puts Watch's on the class's own,
        # where that of another server in this process would take its place.
        for name in ("Check", "Watch"):
            setattr(self, name, _with_pool(getattr(self, name), pool))

    def change(self, name: str, status: Any) -> None:
        with self._lock:
            if self._server_status.get(name) != status:
                self.set(name, status)

    def state(self, name: str) -> Any:
        with self._lock:
            return self._server_status.get(name)

    def forget(self, name: str) -> None:
        with self._lock:
            if name in self._server_status:
                self.set(name, _Status.SERVICE_UNKNOWN)
                del self._server_status[name]

    def end_watches(self) -> None:
        with self._lock:
            for callbacks in self._send_response_callbacks.values():
                for end in list(callbacks):
                    end(None)

    def Watch(
        self, request: Any, context: grpc.ServicerContext, send_response_callback: Any = None
    ) -> Any:
        def forget() -> None:
            with self._lock:
                self._watchers -= 1
                callbacks = self._send_response_callbacks.get(request.service)
                if callbacks is None:
                    return
                callbacks.discard(send_response_callback)
                if not callbacks:
                    del self._send_response_callbacks[request.service]

        with self._lock:
            if self._watchers >= _MAX_WATCHERS:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch already")
            watched = self._send_response_callbacks
            if request.service not in watched and len(watched) >= _MAX_WATCHED_NAMES:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many names are watched")
            answer = super().Watch(request, context, send_response_callback)
            self._watchers += 1
        if not context.add_callback(forget):
            forget()
        return answer


def _with_pool(method: Callable[..., Any], pool: Executor) -> Callable[..., Any]:
    @wraps(method)
    def behaviour(*given: Any) -> Any:
        return method(*given)

    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behaviour
