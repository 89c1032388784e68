"""The exceptions of the client, one class for each cause.

    LadleError
    ├── InvalidInput          the request is wrong; sending it again won't help
    ├── MessageTooLarge       the request or its answer is larger than one side takes
    ├── NotFound              no such model, or no such version of it is served
    ├── FailedPrecondition    the model is there, but lacks what the request names
    ├── Unimplemented         this server has no such method
    ├── Unauthenticated       the server doesn't know the caller
    ├── PermissionDenied      the server knows the caller and refuses the call
    ├── Overloaded            the server has more requests than it can take
    ├── Unavailable           the server can't be reached, or is going away
    ├── DeadlineExceeded      the timeout passed
    ├── Cancelled             the call was cancelled, for example by `Client.close()`
    ├── FleetError            some servers failed in a call to every server
    └── ServerError           the server failed
        └── InvalidAnswer     its answer can't be read

Mistakes in the program itself, such as a negative timeout, are ValueError and TypeError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import grpc

from ladle.client.transport.addresses import advice

# The limit of a message; `details` has the whole text.
_MOST_CHARACTERS = 2_000


class LadleError(Exception):
    """A call that failed. Its `__cause__` is gRPC's error, if the server sent one.

    The message is one line; unprintable characters are escaped.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    code: grpc.StatusCode
    """The gRPC status. For an error found by this client, the status that a server would give."""
    details: str
    """The server's words, or this client's, without the method and the address."""

    def __init__(
        self, message: str, *, code: grpc.StatusCode | None = None, details: str | None = None
    ) -> None:
        super().__init__(_one_line(message))
        self.code = self.default_code if code is None else code
        self.details = message if details is None else details


class InvalidInput(LadleError):
    """The request is wrong: an input's name, dtype, shape or values."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class MessageTooLarge(LadleError):
    """The request or its answer is larger than the client or the server takes."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class NotFound(LadleError):
    """The server has no such model, or not that version."""

    default_code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(LadleError):
    """The model is there, but lacks what the request names, such as a signature."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class Unimplemented(LadleError):
    """The server has no such method."""

    default_code = grpc.StatusCode.UNIMPLEMENTED


class Unauthenticated(LadleError):
    """The server doesn't know the caller."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LadleError):
    """The server knows the caller and refuses the call."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class Overloaded(LadleError):
    """The server has more requests than it can take; a later call may succeed."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(LadleError):
    """The server can't be reached, is stopping, or has a full queue."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(LadleError):
    """The timeout passed before the answer came."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(LadleError):
    """The call was cancelled before its answer came."""

    default_code = grpc.StatusCode.CANCELLED


class FleetError(LadleError):
    """Some servers failed in a call to every server. `code` is theirs if all have the same."""

    results: Mapping[str, Any]
    """The results of the other servers, by address."""
    errors: Mapping[str, LadleError]
    """The errors, by address."""

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
    """The server failed, and doesn't blame the request."""

    default_code = grpc.StatusCode.INTERNAL


class InvalidAnswer(ServerError):
    """The server's answer can't be read."""


def _one_line(message: str) -> str:
    """Return the message as one printable line, whatever names and server texts it quotes."""
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
# gRPC itself gives RESOURCE_EXHAUSTED for a message beyond either side's limit. Only the text
# differs ("Received message larger than max", "Sent message larger than max"; in
# gRPC's src/core/ext/filters/message_size and src/core/lib/surface).
_TOO_LARGE = "message larger than max"
_ANSWER_ADVICE = "predict_chunks() gets the answer in parts"
_REQUEST_ADVICE = (
    "send fewer rows in one call, such as with stream() or predict_chunks(), or raise the server's "
    "limit"
)


def from_status(code: grpc.StatusCode, details: str, what: str) -> LadleError:
    """Return the exception for a status. `what`, the method and the address, begins its message."""
    cause = _BY_CODE.get(code, ServerError)
    if cause is Overloaded and _TOO_LARGE in details:
        cause = MessageTooLarge
    message = f"{what}: {code.name}" + (f": {details}" if details else "")
    if cause is MessageTooLarge:
        message += f"; {_ANSWER_ADVICE if 'CLIENT: Received' in details else _REQUEST_ADVICE}"
    elif cause is Unavailable and (to_do := advice(details)):
        message += f"; {to_do}"
    return cause(message, code=code, details=details)


def from_rpc_error(error: grpc.RpcError, what: str) -> LadleError:
    """Return the exception for an error of gRPC, with that error as its cause."""
    call: object = error  # RpcError itself has no code; what calls raise is one of these as well
    if isinstance(call, grpc.Call | grpc.aio.AioRpcError):
        mapped = from_status(call.code(), call.details() or "", what)
    else:
        mapped = from_status(grpc.StatusCode.UNKNOWN, str(error), what)
    mapped.__cause__ = error
    return mapped
