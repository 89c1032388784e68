"""The pending requests of one PredictStream call: who waits for which answer; no I/O.

Each request has an id. Answers come in any order, so a slow request does not delay others; the
stream's window restores the order.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from ladle.client.calls.effects import Failure
from ladle.client.calls.retry import NOT_TAKEN
from ladle.client.errors import InvalidAnswer, Unavailable, Unimplemented, from_status
from ladle.client.messages.responses import code_of
from ladle.protos import ladle_pb, wire

W = TypeVar("W")

_ID = ladle_pb.PredictStreamRequest.ID_FIELD_NUMBER
_REQUEST = ladle_pb.PredictStreamRequest.REQUEST_FIELD_NUMBER
_ANSWER_AS_READY = ladle_pb.PredictStreamRequest.ANSWER_AS_READY_FIELD_NUMBER
_START_PATIENCE_S = 5.0


def encode(request_id: int, body: bytes) -> bytes:
    """Return a PredictStreamRequest that holds a PredictRequest's bytes."""
    head = wire.varint_field(_ID, request_id) + wire.varint_field(_ANSWER_AS_READY, 1)
    return wire.join([head, *wire.bytes_field(_REQUEST, [body])])


class PendingTable(Generic[W]):
    """The requests of one call that have no answer yet; `W` is the type of a waiter.

    Not thread-safe. An entry goes when its answer comes.
    """

    def __init__(self, what: str) -> None:
        """Make an empty table; `what` begins the messages of errors."""
        self.has_started = False
        """Whether the server's start message has come. No request is sent before."""
        self._what = what
        self._waiting: dict[int, W] = {}
        self._forgotten: set[int] = set()
        self._last_id = 0

    def add(self, waiter: W) -> int:
        """Add a request, and return its id."""
        self._last_id += 1
        self._waiting[self._last_id] = waiter
        return self._last_id

    def forget(self, request_id: int) -> None:
        """Remove a waiter. The answer may still come, and is dropped then."""
        if self._waiting.pop(request_id, None) is not None:
            self._forgotten.add(request_id)

    def is_empty(self) -> bool:
        """Return whether nobody waits."""
        return not self._waiting

    def read(self, message: bytes) -> tuple[W, bytes | Failure] | None:
        """Read a message of the server; return who waits for it and the result, None if nobody.

        Raises:
            InvalidAnswer: The message is no PredictStreamResponse, or answers an unknown request.
        """
        try:
            response = ladle_pb.PredictStreamResponse.FromString(message)
        except DecodeError as error:
            raise InvalidAnswer(
                f"{self._what}: the server sent {len(message)} bytes that are not the message "
                "expected"
            ) from error
        if not self.has_started:
            if not response.HasField("start"):
                raise InvalidAnswer(f"{self._what}: expected the start of a stream, got an answer")
            self.has_started = True
            return None
        if response.id in self._forgotten:
            self._forgotten.remove(response.id)
            return None
        if response.id not in self._waiting:
            raise InvalidAnswer(
                f"{self._what}: the server answered request {response.id}, "
                "which was not sent or has its answer"
            )
        waiter = self._waiting.pop(response.id)
        if response.HasField("response"):
            return waiter, response.response.SerializeToString()
        if not response.error.error_code:
            return waiter, Failure(
                InvalidAnswer(f"{self._what}: expected a response or an error, got neither")
            )
        status = response.error
        return waiter, Failure(
            from_status(code_of(status.error_code), status.error_message, self._what)
        )

    def end(self) -> list[W]:
        """Remove all waiters, and return them."""
        waiting = [*self._waiting.values()]
        self._waiting.clear()
        return waiting


def start_patience_s(timeout_s: float) -> float:
    """Return how many seconds a request waits for the server's start message.

    Servers send it at once. The rest of the timeout is left for a unary call.
    """
    return min(timeout_s / 2, _START_PATIENCE_S)


def has_no_streams(failure: Failure | None) -> bool:
    """Return whether a call that ended before its start shows that the server has no PredictStream.

    Other failures, such as an expired token, say nothing about later calls.
    """
    return failure is not None and isinstance(failure.error, Unimplemented | InvalidAnswer)


def outcome_of_end(failure: Failure | None, has_started: bool, what: str) -> Failure | None:
    """Return the result of the requests that had no answer when their call ended.

    None means that each request goes again as a unary call, which gives each its own error. That
    is so for a server without PredictStream, and where one request of several was too large.
    `failure` is how the call ended; None for status OK.
    """
    if failure is None:
        return Failure(Unavailable(f"{what}: the server ended the stream before it had answered"))
    if isinstance(failure.error, InvalidAnswer) and has_started:
        return failure
    return failure if failure.error.code in NOT_TAKEN else None
