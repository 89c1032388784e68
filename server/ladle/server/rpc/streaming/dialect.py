"""A kind of stream: how its messages are read, and how its answers are put."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Observation
from ladle.server.rpc.queued import InferMethod

R = TypeVar("R")  # a request as its API's parser returns it


class Head(NamedTuple):
    """What a message says of its request beside the request itself."""

    model: str
    """The model that it names."""
    tag: object = None
    """What its answer repeats, such as an id; the dialect's own."""
    as_ready: bool = False
    """Whether answers may come before those of earlier requests; the first message decides."""


class Dialect(Protocol[R]):
    """How the messages of one stream are read and written. One thread at a time calls it."""

    @property
    def path(self) -> str:
        """The full method path."""

    @property
    def method(self) -> InferMethod[R, bytes]:
        """What the requests are of."""

    def opening(self) -> bytes | None:
        """Return the message that comes before all answers; None if there is none."""

    def outline(self, message: bytes) -> Head:
        """Return what a message says that there was no room for; cheap.

        Raises:
            InvalidArgument: It can't be read, so the stream ends.
        """

    def read(
        self, message: bytes, seen: Observation
    ) -> tuple[Head, Callable[[], tuple[R, float | None]]]:
        """Return what a message says, and what returns its request and deadline.

        What is returned raises ServingError if the request is wrong; the stream goes on then.
        `seen` is where what becomes of the request is noted.

        Raises:
            InvalidArgument: The message can't be read, so the stream ends.
        """

    def missing(self, tag: object) -> ServingError | None:
        """Return why the version that a request names can't be had; None: the error says it."""

    def answer(self, tag: object, answer: bytes) -> bytes:
        """Return the message of an answer."""

    def refusal(self, tag: object, error: ServingError) -> bytes:
        """Return the message of a request that failed."""
