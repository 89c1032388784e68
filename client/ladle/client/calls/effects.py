"""What the retry loop asks an I/O driver to do, and what the driver gives back."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias, TypeVar

import grpc

from ladle.client.errors import LadleError, from_rpc_error
from ladle.client.messages import requests
from ladle.client.messages.requests import EncodedRequest

T = TypeVar("T")

_PUSHBACK = "grpc-retry-pushback-ms"


class Pause(NamedTuple):
    """Wait before going on."""

    seconds: float


Flow: TypeAlias = Generator[EncodedRequest | Pause, bytes, T]
"""Yields requests, receives the bytes of their answers, and returns a method's result."""


class Second(NamedTuple):
    """A second attempt at another address, made while the first attempt takes long."""

    address: int
    after_s: float
    what: str
    """As `Send.what`, for this address."""
    allow: Callable[[], bool]
    """Called when `after_s` has passed; False means that the budget for hedges is empty."""


class Send(NamedTuple):
    """Make a call. The driver gives back the answer's bytes, a Failure, or Raced."""

    request: EncodedRequest
    address: int
    """Index of the address in the fleet."""
    timeout_s: float
    what: str
    """The method and the address, for error messages: `Predict at localhost:8500`."""
    second: Second | None

    @property
    def may_stream(self) -> bool:
        """Whether the request may share a call that streams with others."""
        return self.request.method in requests.PREDICTIONS and self.second is None


class Failure(NamedTuple):
    """A call that failed."""

    error: LadleError
    pushback: str | None = None
    """The server's `grpc-retry-pushback-ms`, where it sent one."""


class Raced(NamedTuple):
    """The results of a call and of its second attempt; at most one attempt is missing."""

    ended: tuple[tuple[int, bytes | Failure], ...]
    """Pairs of address and result, at least one. The last pair is the result of the call."""


Outcome: TypeAlias = "bytes | Failure | Raced | None"
"""What the driver gives back: None after a Pause."""


def failure_of(error: grpc.RpcError, what: str) -> Failure:
    """Return the Failure for an error of gRPC; `what` begins the message."""
    trailing = getattr(error, "trailing_metadata", None)
    pushback = None
    for key, value in (trailing() if trailing else None) or ():
        if key == _PUSHBACK:
            pushback = value if isinstance(value, str) else value.decode("latin-1")
    return Failure(from_rpc_error(error, what), pushback)


def answer_last(ended: list[tuple[int, bytes | Failure]]) -> list[tuple[int, bytes | Failure]]:
    """Return attempts that ended in the same moment with an answer at the end, where it counts."""
    return sorted(ended, key=lambda one: isinstance(one[1], bytes))
