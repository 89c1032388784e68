"""What can go wrong with a request, as exceptions that carry a canonical code.

ServingError
├── InvalidArgument
├── NotFound
├── FailedPrecondition
├── DeadlineExceeded
├── Cancelled
├── ResourceExhausted
├── Unavailable
├── Unimplemented
├── Unauthenticated
└── PermissionDenied

Messages name the thing, what was expected and what was given; they go to the caller as they are.
Anything that is not a ServingError is a fault of ours: it is logged, and the caller reads INTERNAL.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol


class Code(IntEnum):
    """The canonical status codes, with the numbers that gRPC and `tensorflow.error.Code` share."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Place(Protocol):
    """A folder, or a place in a store."""

    @property
    def name(self) -> str:
        """The last part; empty where there is none."""


class ServingError(Exception):
    """A request, or the load of a version, that ends in a status other than OK."""

    code = Code.UNKNOWN
    retry_after_s: float | None = None
    """For how long the caller should leave the server alone, where that is known."""
    reason = ""
    """Why the request was refused whatever it asked for, in a word for metrics; else empty."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        if not message.isascii():  # it may quote a file's name, which need be no text
            message = message.encode(errors="backslashreplace").decode()
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def clear_traceback(self) -> None:
        """Forget where it came from: the frames hold whatever was being worked on."""
        self.__traceback__ = self.__cause__ = self.__context__ = None

    def for_callers(self, folder: Place) -> ServingError:
        """Return the error without this folder in its message, as `without_folder` says."""
        message = without_folder(self.message, folder)
        if message == self.message:
            return self
        shown = ServingError(message, self.code)
        shown.reason, shown.retry_after_s = self.reason, self.retry_after_s
        return shown


class InvalidArgument(ServingError):
    """The request is wrong in itself, whatever the server's state."""

    code = Code.INVALID_ARGUMENT


class NotFound(ServingError):
    """No such model, version or label is loaded."""

    code = Code.NOT_FOUND


class FailedPrecondition(ServingError):
    """The request is right, but this model can't do it."""

    code = Code.FAILED_PRECONDITION


class DeadlineExceeded(ServingError):
    """The caller's deadline passed before there was an answer."""

    code = Code.DEADLINE_EXCEEDED
    reason = "deadline"


class Cancelled(ServingError):
    """The caller went away, or the server gave the work up."""

    code = Code.CANCELLED


class ResourceExhausted(ServingError):
    """A limit in bytes or places is reached."""

    code = Code.RESOURCE_EXHAUSTED


class Unavailable(ServingError):
    """Not now; the same request may pass a moment later."""

    code = Code.UNAVAILABLE


class Unimplemented(ServingError):
    """The server has no such thing."""

    code = Code.UNIMPLEMENTED


class Unauthenticated(ServingError):
    """The caller has not shown a token that the server knows."""

    code = Code.UNAUTHENTICATED
    reason = "unauthenticated"


class PermissionDenied(ServingError):
    """Whoever the caller is, they may not do this."""

    code = Code.PERMISSION_DENIED
    reason = "permission_denied"


def without_folder(text: str, folder: Place) -> str:
    """Return a text for callers: of a folder in it the last part alone.

    They learn which file is wrong, and not where the server's files lie.
    """
    return text.replace(str(folder), folder.name) if folder.name else text
