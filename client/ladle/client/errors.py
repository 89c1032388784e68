"""What can go wrong with a call, by cause.

    LadleError
    ├── InvalidInput          the request can't be what was meant; sending it again won't help
    ├── MessageTooLarge       the request or its answer is larger than one side takes
    ├── NotFound              no such model, or no such version of it is served
    ├── FailedPrecondition    the model is there, but not what was asked of it
    ├── Unimplemented         this server has no such method
    ├── Unauthenticated       the server doesn't know who is asking
    ├── PermissionDenied      the server knows, and says no
    ├── Overloaded            the server has more to do than it can take
    ├── Unavailable           the server can't be reached, or is going away
    ├── DeadlineExceeded      the timeout passed
    ├── Cancelled             the call was given up, as by `Client.close()`
    ├── FleetError            some of all servers failed, each for a cause of its own
    └── ServerError           the server failed
        └── InvalidAnswer     its answer can't be read

Mistakes in the program itself, such as a negative timeout, are ValueError and TypeError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc

# Of a message; longer ones are cut, and `details` has the whole.
_MOST_CHARACTERS = 2_000


class LadleError(Exception):
    """A call that failed; the server's own error, where there is one, is its `__cause__`.

    Its message is one line: what doesn't print is escaped.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    code: grpc.StatusCode
    """The gRPC status; for what this client found itself, the one a server would have given."""
    details: str
    """The server's own words, or this client's, without what was asked and of whom."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode | None = None, details: str | None = None
    ) -> None:
        super().__init__(_one_line(message))
        self.code = self.default_code if code is None else code
        self.details = message if details is None else details


class InvalidInput(LadleError):
    """The request can't be what was meant: an input's name, dtype, shape or values."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class MessageTooLarge(LadleError):
    """The request or its answer is larger than the client or the server takes."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFound(LadleError):
    """No such model is served, or not in that version."""

    default_code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(LadleError):
    """The model is there, but has not what was asked of it, such as a signature."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class Unimplemented(LadleError):
    """The server has no such method."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class Unauthenticated(LadleError):
    """The server doesn't know who is asking."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LadleError):
    """The server knows who is asking, and says no."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class Overloaded(LadleError):
    """The server has more to do than it can take; later, or more slowly, it may succeed."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(LadleError):
    """The server can't be reached, is going away, or has a full queue."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(LadleError):
    """The timeout passed before the answer was there."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(LadleError):
    """The call was given up before its answer came."""

    default_code = grpc.StatusCode.CANCELLED


class FleetError(LadleError):
    """Some of all servers that were asked failed; its code is theirs where they have one code."""

    results: Mapping[str, Any]
    """What the others answered, by address."""
    errors: Mapping[str, LadleError]
    """What was wrong, by address."""

    def __init__(
        self,
        message: str,
        *,
        results: Mapping[str, Any] | None = None,
        errors: Mapping[str, LadleError] | None = None,
    ) -> None:
        self.results = results or {}
        self.errors = errors or {}
        codes = {error.code for error in self.errors.values()}
        super().__init__(message, code=codes.pop() if len(codes) == 1 else None)


class ServerError(LadleError):
    """The server failed, and it isn't the request's fault as far as it says."""

    default_code = grpc.StatusCode.INTERNAL


class InvalidAnswer(ServerError):
    """The server's answer can't be read."""


def _one_line(message: str) -> str:
    """Return a message whose quotations, of servers and names, can't break or hide the line."""
    if len(message) > _MOST_CHARACTERS:
        message = message[:_MOST_CHARACTERS] + "..."
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


_BY_CODE: dict[grpc.StatusCode, type[LadleError]] = {
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    **{
        cause.default_code: cause
        for cause in (
            InvalidInput,
            NotFound,
            FailedPrecondition,
            Unimplemented,
            Unauthenticated,
            PermissionDenied,
            Overloaded,
            Unavailable,
            DeadlineExceeded,
            Cancelled,
        )
    },
}
# RESOURCE_EXHAUSTED is also what gRPC itself answers for a message beyond either side's limit, and
# only its text tells ("Received message larger than max", "Sent message larger than max"; in
# gRPC's src/core/ext/filters/message_size and src/core/lib/surface).
_TOO_LARGE = "message larger than max"


def from_status(code: grpc.StatusCode, details: str, asked: str) -> LadleError:
    """Return the exception for a status; its message begins with `asked`: what, and of whom."""
    cause = _BY_CODE.get(code, ServerError)
    if cause is Overloaded and _TOO_LARGE in details:
        cause = MessageTooLarge
    message = f"{asked}: {code.name}" + (f": {details}" if details else "")
    return cause(message, code=code, details=details)


def from_rpc_error(error: grpc.RpcError, asked: str) -> LadleError:
    """Return the exception that stands for `error`, with `error` as its cause."""
    call: object = error  # RpcError itself has no code; what calls raise is one of these as well
    if isinstance(call, grpc.Call | grpc.aio.AioRpcError):
        mapped = from_status(call.code(), call.details() or "", asked)
    else:
        mapped = from_status(grpc.StatusCode.UNKNOWN, str(error), asked)
    mapped.__cause__ = error
    return mapped
