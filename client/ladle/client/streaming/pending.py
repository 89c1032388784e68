"""The pending requests of one call that streams: who waits for which answer; no I/O.

Each request has an id. Answers come in any order, so a slow request does not delay others; the
stream's window restores the order.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from ladle.client.calls.effects import Failure
from ladle.client.calls.retry import NOT_TAKEN
from ladle.client.errors import InvalidAnswer, Unavailable, Unimplemented
from ladle.client.messages.streams import StreamMessages

W = TypeVar("W")

_START_PATIENCE_S = 5.0


class PendingTable(Generic[W]):
    """The requests of one call that have no answer yet; `W` is the type of a waiter.

    Not thread-safe. An entry goes when its answer comes.
    """

    def __init__(self, messages: StreamMessages, what: str) -> None:
        """Make an empty table; `what` begins the messages of errors."""
        self.has_started = False
        """Whether the server's first message has come, and could be read."""
        self._messages = messages
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

    def read(self, message: bytes) -> tuple[W, bytes | Failure | None] | None:
        """Read a message of the server; return who waits for it and the result, None if nobody.

        A result of None means that the request has to go as a unary call.

        Raises:
            InvalidAnswer: The message is none of the protocol's, or answers an unknown request.
            Unimplemented: Answers of this server can't be told apart.
        """
        answer = self._messages.read(message, self._what)
        if answer is None and not self.has_started:
            self.has_started = True
            return None
        if answer is None:
            raise InvalidAnswer(f"{self._what}: expected an answer, got a second start")
        if self._messages.has_start and not self.has_started:
            raise InvalidAnswer(f"{self._what}: expected the start of a stream, got an answer")
        if answer.request_id in self._forgotten:
            self._forgotten.remove(answer.request_id)
            self.has_started = True
            return None
        if answer.request_id not in self._waiting:
            raise InvalidAnswer(
                f"{self._what}: the server answered request {answer.request_id}, "
                "which was not sent or has its answer"
            )
        self.has_started = True
        waiter = self._waiting.pop(answer.request_id)
        return waiter, answer.body if answer.error is None else Failure(answer.error)

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
    """Return whether a call that ended before its start shows that the server has no streams.

    Other failures, such as an expired token, say nothing about later calls.
    """
    return failure is not None and isinstance(failure.error, Unimplemented | InvalidAnswer)


def outcome_of_end(failure: Failure | None, has_started: bool, what: str) -> Failure | None:
    """Return the result of the requests that had no answer when their call ended.

    None means that each request goes again as a unary call, which gives each its own error. That
    is so for a server without streams, and where one request of several was too large.
    `failure` is how the call ended; None for status OK.
    """
    if failure is None:
        return Failure(Unavailable(f"{what}: the server ended the stream before it had answered"))
    if isinstance(failure.error, InvalidAnswer) and has_started:
        return failure
    return failure if failure.error.code in NOT_TAKEN else None
