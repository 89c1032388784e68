"""Calls with a thread each, by grpcio's public parts alone: for versions of it unknown to us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from ladle.server.call import Handler
from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Observation
from ladle.server.limits import Limits
from ladle.server.transport import peer
from ladle.server.transport.grpcio.completion import trailing_metadata

STATUS = {code.value[0]: code for code in grpc.StatusCode}


def serving(handler: Handler, limits: Limits) -> Any:
    """Return what grpcio calls in a thread of its pool, which waits for the answer."""

    def serve(request: bytes, context: grpc.ServicerContext) -> bytes:
        call = _GrpcioCall(request, context)
        try:
            limits.take(len(request))
        except ServingError as error:
            limits.refused(error)
            call.fail(error)
            return call.wait()
        try:
            handler(call)
            return call.wait()
        finally:
            limits.budget.give_back(len(request))

    return serve


class _GrpcioCall:
    """A Call whose gRPC thread waits for it to be answered."""

    __slots__ = ("_answered", "_context", "_error", "_response", "deadline", "request")

    def __init__(self, request: bytes, context: grpc.ServicerContext) -> None:
        self.request = request
        remaining_s = context.time_remaining()
        # gRPC reports an absent deadline as one in the far future.
        self.deadline = (
            None
            if remaining_s is None or remaining_s > threading.TIMEOUT_MAX
            else time.monotonic() + remaining_s
        )
        self._context = context
        self._answered = threading.Lock()
        self._answered.acquire()
        self._response: bytes = b""
        self._error: ServingError | None = None

    @property
    def local(self) -> bool:
        return peer.is_local(self._context.peer())

    @property
    def shared_observation(self) -> Observation | None:
        return None

    def metadata(self, key: str) -> str | None:
        for name, value in self._context.invocation_metadata():
            if name == key:
                return value if isinstance(value, str) else value.decode("latin-1")
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        if not self._context.add_callback(callback):
            callback()

    def discard_request(self) -> None:
        self.request = b""

    def respond(self, response: bytes) -> None:
        self._response = response
        self._answered.release()

    def fail(self, error: ServingError) -> None:
        self._error = error
        self._answered.release()

    def wait(self) -> bytes:
        """Return the response once it is there, in the call's own thread."""
        self._answered.acquire()
        if self._error is not None:
            if metadata := trailing_metadata(self._error):
                self._context.set_trailing_metadata(metadata)
            self._context.abort(STATUS[self._error.code.value], self._error.message)
        return self._response
