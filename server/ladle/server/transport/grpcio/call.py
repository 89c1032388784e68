"""Unary calls: a thread each, from the message to the answer."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from ladle.server.call import Handler
from ladle.server.core.errors import Code, ServingError, Unimplemented
from ladle.server.core.observation import Observation
from ladle.server.limits import Limits
from ladle.server.transport import peer
from ladle.server.transport.grpcio.admission import Admission

logger = logging.getLogger(__name__)

_STATUS = {code.value[0]: code for code in grpc.StatusCode}


def unary(handler: Handler, limits: Limits, admission: Admission) -> Any:
    """Return what grpcio calls with each call, in a thread that then waits for the answer.

    It takes a stream of one message: so the call is there before its message, and can be ended.
    """

    def serve(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        call = ThreadCall(context)
        admission.begin(call)
        call.on_end(lambda: admission.ended(call))
        # If the caller goes away, grpcio raises what ends this thread without a word.
        message = next(requests, None)
        admission.received(call)
        if message is None:
            error = Unimplemented("expected exactly one request message, got none")
            abort(context, error)
        call.come(message)
        del message
        return _answer(call, handler, limits)

    return serve


def _answer(call: ThreadCall, handler: Handler, limits: Limits) -> bytes:
    nbytes = len(call.request)
    try:
        limits.take(nbytes)
    except ServingError as error:
        limits.refused(error, 1)
        call.fail(error)
        return call.wait()
    try:
        handler(call)
    except Exception:
        logger.exception("a request could not be handled")
        call.fail(ServingError("the server failed on this request", Code.INTERNAL))
    try:
        return call.wait()
    finally:
        limits.budget.give_back(nbytes)


class ThreadCall:
    """A Call whose thread waits for its answer. Thread-safe."""

    __slots__ = ("_context", "_has_come", "_outcomes", "deadline", "request")

    shared_observation: Observation | None = None
    """Nothing: the call stands by itself."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self.request = b""
        self._has_come = False
        self.deadline = deadline(context)
        self._context = context
        # The first one counts: the answer, a status, or None because the caller went away.
        self._outcomes: queue.SimpleQueue[bytes | ServingError | None] = queue.SimpleQueue()
        self.on_end(lambda: self._outcomes.put(None))

    def come(self, request: bytes) -> None:
        """Take the message."""
        self.request = request
        self._has_come = True

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine."""
        return peer.is_local(self._context.peer())

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        return metadata(self._context, key)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the call is over for its caller."""
        if not self._context.add_callback(callback):
            callback()

    def discard_request(self) -> None:
        """Free the request message."""
        self.request = b""

    def respond(self, response: bytes) -> None:
        """Have the call's thread send the response message."""
        self._outcomes.put(response)

    def fail(self, error: ServingError) -> None:
        """Have the call's thread end the call with a status instead."""
        self._outcomes.put(error)

    def cut_off(self, error: ServingError) -> None:
        """End the call; without a message its thread can't, and the caller sees CANCELLED."""
        if self._has_come:
            self.fail(error)
        else:
            self._context.cancel()

    def stop(self) -> None:
        """Go on: the grace is for calls like this one."""

    def wait(self) -> bytes:
        """Return the response once it is there, in the call's own thread."""
        outcome = self._outcomes.get()
        self.request = b""
        if isinstance(outcome, ServingError):
            abort(self._context, outcome)
        return outcome or b""


def deadline(context: grpc.ServicerContext) -> float | None:
    """Return the monotonic time at which the caller stops waiting; None if it never does."""
    remaining_s = context.time_remaining()
    # gRPC reports an absent deadline as one in the far future.
    if remaining_s is None or remaining_s > threading.TIMEOUT_MAX:
        return None
    return time.monotonic() + remaining_s


def metadata(context: grpc.ServicerContext, key: str) -> str | None:
    """Return the value that the caller sent under this lower-case key."""
    for name, value in context.invocation_metadata():
        if name == key:
            return value if isinstance(value, str) else value.decode("latin-1")
    return None


def abort(context: grpc.ServicerContext, error: ServingError) -> NoReturn:
    """End a call with a status, in its own thread: this raises what grpcio waits for."""
    if error.retry_after_s is not None:
        # https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback
        pushback = str(max(1, round(error.retry_after_s * 1000)))
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    context.abort(_STATUS[error.code.value], error.message)
    raise AssertionError("abort returns never")
