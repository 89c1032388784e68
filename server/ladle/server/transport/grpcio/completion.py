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
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from ladle.server.call import Handler, NonBlocking, Streaming
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import Limits
from ladle.server.transport.grpcio.admission import Admission
from ladle.server.transport.grpcio.completion_call import CompletionCall
from ladle.server.transport.grpcio.completion_rpc import CompletionRpc, Pools, cygrpc, server
from ladle.server.transport.grpcio.completion_stream import CompletionStream, Streams

logger = logging.getLogger(__name__)


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
