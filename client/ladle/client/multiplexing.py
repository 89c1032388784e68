"""Many Predict calls on one PredictStream call: whose answer is whose, and what its end means.

Decisions without I/O. Requests go under ids, and are answered in any order: the window behind a
stream puts results in order, so one that takes long holds up nothing on the wire.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from ladle.client.calls import Failure
from ladle.client.errors import InvalidAnswer, Unavailable, Unimplemented, from_status
from ladle.client.responses import code_of
from ladle.client.retry import NOT_TAKEN
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


class Ledger(Generic[W]):
    """The requests of one call that have no answer; `W` is whoever waits for one.

    Not thread-safe. No more is kept than is under way.
    """

    def __init__(self, asked: str) -> None:
        """Make an empty one; `asked` begins the messages of errors."""
        self.has_started = False
        """Whether the server has said that it takes streams; nothing is sent before."""
        self._asked = asked
        self._waiting: dict[int, W] = {}
        self._left: set[int] = set()
        self._last_id = 0

    def add(self, waiter: W) -> int:
        """Note a request, and return its id."""
        self._last_id += 1
        self._waiting[self._last_id] = waiter
        return self._last_id

    def leave(self, request_id: int) -> None:
        """Note that nobody waits for an answer any more; it may come all the same."""
        if self._waiting.pop(request_id, None) is not None:
            self._left.add(request_id)

    def is_empty(self) -> bool:
        """Tell whether nobody waits."""
        return not self._waiting

    def read(self, message: bytes) -> tuple[W, bytes | Failure] | None:
        """Return who gets what of a message from the server; None where nobody gets anything.

        Raises:
            InvalidAnswer: It is no message of such a call, or answers what was not asked.
        """
        try:
            response = ladle_pb.PredictStreamResponse.FromString(message)
        except DecodeError as error:
            raise InvalidAnswer(
                f"{self._asked}: the server sent {len(message)} bytes that are not the message "
                "expected"
            ) from error
        if not self.has_started:
            if not response.HasField("start"):
                raise InvalidAnswer(f"{self._asked}: expected the start of a stream, got an answer")
            self.has_started = True
            return None
        if response.id in self._left:
            self._left.remove(response.id)
            return None
        if response.id not in self._waiting:
            raise InvalidAnswer(
                f"{self._asked}: the server answered request {response.id}, "
                "which was not asked or has its answer"
            )
        waiter = self._waiting.pop(response.id)
        if response.HasField("response"):
            return waiter, response.response.SerializeToString()
        if not response.error.error_code:
            return waiter, Failure(
                InvalidAnswer(f"{self._asked}: expected a response or an error, got neither")
            )
        status = response.error
        return waiter, Failure(
            from_status(code_of(status.error_code), status.error_message, self._asked)
        )

    def end(self) -> list[W]:
        """Return who still waits, and forget them."""
        waiting = [*self._waiting.values()]
        self._waiting.clear()
        return waiting


def start_patience_s(timeout_s: float) -> float:
    """Return how long a request waits for the start of a stream, which servers send at once.

    There has to be time left to ask by a call of its own.
    """
    return min(timeout_s / 2, _START_PATIENCE_S)


def has_no_streams(failure: Failure | None) -> bool:
    """Tell whether a call that ended before its start shows that the server will never take one.

    Other ends, such as of a token that has run out, are of that call alone.
    """
    return failure is not None and isinstance(failure.error, Unimplemented | InvalidAnswer)


def outcome_of_end(failure: Failure | None, has_started: bool, asked: str) -> Failure | None:
    """Return what comes of requests that a call's end left without an answer.

    None: each is to be asked by a call of its own, which tells what is wrong with it. So are those
    of a server without streams, and those that came together with one that is too large. `failure`
    is how the call ended; None for well.
    """
    if failure is None:
        return Failure(Unavailable(f"{asked}: the server ended the stream before it had answered"))
    if isinstance(failure.error, InvalidAnswer) and has_started:
        return failure
    return failure if failure.error.code in NOT_TAKEN else None
