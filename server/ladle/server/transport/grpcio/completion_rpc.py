"""What calls and streams without threads have in common: grpcio's state of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple

from grpc import _common, _cython
from grpc import _server as _typed_server

from ladle.server.core.errors import ServingError
from ladle.server.transport import peer

# The stubs know nothing of these parts.
cygrpc: Any = _cython.cygrpc  # type: ignore[attr-defined]
server: Any = _typed_server

RECEIVE = "ladle receive"
_STATUS = "ladle status"


class Pools(NamedTuple):
    """Whose threads take what the polling thread should not do itself."""

    working: Executor
    """Handles calls with large requests, and those of blocking handlers."""
    waiting: Executor
    """Handles calls that wait for something, so that waiting keeps no thread from working."""


class CompletionRpc:
    """A call as grpcio has it, and the operations that are under way on it.

    As in grpcio: `state.due` names the operations under way, and when the last one has ended,
    whoever ends it hands `state.callbacks` to the polling thread.
    """

    __slots__ = ("call", "event", "state")

    def __init__(self, event: Any, state: Any) -> None:
        self.event = event
        self.call = event.call
        self.state = state

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine."""
        return peer.is_local(_common.decode(self.call.peer()))

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""
        # gRPC reports an absent deadline as one in the far future.
        remaining_s: float = self.event.call_details.deadline - time.time()
        return None if remaining_s > threading.TIMEOUT_MAX else time.monotonic() + remaining_s

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        for name, value in self.event.invocation_metadata:
            if name == key:
                return value if isinstance(value, str) else value.decode("latin-1")
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the call is over for its caller."""
        with self.state.condition:
            callbacks = self.state.callbacks
            if callbacks is not None:
                callbacks.append(callback)
                return
        callback()

    def start_receiving(self, received: Callable[[Any], Any]) -> None:
        """Have `received` get the event with the next message, unless the call is over."""
        state = self.state
        with state.condition:
            if self.is_active():
                self.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
                state.due.add(RECEIVE)

    def end_operation(self, token: str) -> Any:
        """Count out an operation, and return what grpcio's polling thread has to do after it."""
        with self.state.condition:
            return server._possibly_finish_call(self.state, token)

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        """Send the status, and before it the message, unless the call has ended already."""
        state = self.state
        with state.condition:
            if not self.is_active():
                return
            operations = initial_metadata(state)
            if message is not None:
                operations.append(cygrpc.SendMessageOperation(message, 0))
            operations.append(_status_operation(error))
            self.call.start_server_batch(operations, self._finished)
            state.statused = True
            state.due.add(_STATUS)

    def _finished(self, _event: Any) -> Any:
        return self.end_operation(_STATUS)

    def is_active(self) -> bool:
        """Whether anything can be sent; asked under the state's lock."""
        return self.state.client is not server._CANCELLED and not self.state.statused


def initial_metadata(state: Any) -> list[Any]:
    """Return the operation that has to come first, once."""
    if not state.initial_metadata_allowed:
        return []
    state.initial_metadata_allowed = False
    return [server._get_initial_metadata_operation(state, None)]


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
