"""A bound on the bytes of all requests under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ladle.server.core.errors import ResourceExhausted, ServingError

_EXPLAINED_BYTES = 64 << 20


class Counter(Protocol):
    """Counts bytes up to a limit. Thread-safe."""

    @property
    def used(self) -> int:
        """The bytes that are counted now."""

    def take(self, nbytes: int, held: int = 0) -> int | None:
        """Count bytes in and return None; or return the bytes of all others if there is no room."""

    def give_back(self, nbytes: int) -> None:
        """Count bytes out."""


class ByteBudget:
    """Counts bytes in and out. Thread-safe."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes; a single request may be larger while there is no other."""
        self.limit = limit
        self.count_with(_LockedCounter(limit))

    @property
    def used(self) -> int:
        """The bytes that are counted now."""
        return self.counter.used

    def count_with(self, counter: Counter) -> None:
        """Have another counter count, such as one that needs no Python; before the first request.

        The counter must have the same limit.
        """
        self.counter = counter
        self.give_back = counter.give_back
        """Counts bytes out."""

    def take(self, nbytes: int, held: int = 0) -> None:
        """Count bytes in; `give_back` counts them out again.

        Args:
            nbytes: how many.
            held: how many the same request has taken before.

        Raises:
            ResourceExhausted: There is no room for them; nothing was counted.
        """
        others = self.counter.take(nbytes, held)
        if others is not None:
            raise self.no_room(others, held + nbytes)

    def no_room(self, others: int, nbytes: int) -> ResourceExhausted:
        """Return the refusal of a request of `nbytes`, where all others have `others` bytes."""
        error = ResourceExhausted(
            f"{others} bytes of requests are under way of at most {self.limit} "
            f"(--max_inflight_bytes), and the request brings {nbytes}; try again later"
        )
        error.retry_after_s = 0.1
        error.reason = "inflight_bytes"
        return error


class _LockedCounter:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.used = 0

    def take(self, nbytes: int, held: int = 0) -> int | None:
        with self._lock:
            others = self.used - held
            if others and self.used + nbytes > self._limit:
                return others
            self.used += nbytes
        return None

    def give_back(self, nbytes: int) -> None:
        with self._lock:
            self.used -= nbytes


@dataclass(frozen=True)
class Limits:
    """What requests may take."""

    max_request_bytes: int
    """Of one message, after decompression."""
    budget: ByteBudget
    """Of all together."""
    refused: Callable[[ServingError, int], None] = lambda error, count: None
    """Is called with the refusal of so many requests that are not taken, and with their number:
    no method is called for them."""

    @property
    def max_received_bytes(self) -> int:
        """What gRPC should let through: its own refusal can't name the flag, so ours comes first.

        A message that is larger still is refused by gRPC before all of it is read.
        """
        return min(self.max_request_bytes + _EXPLAINED_BYTES, (1 << 31) - 1)

    def take(self, nbytes: int) -> None:
        """Count a message in; `budget.give_back` counts it out again.

        Raises:
            ResourceExhausted: It is too large, or there is no room for it; nothing was counted.
        """
        if nbytes > self.max_request_bytes:
            raise self.too_large(nbytes)
        others = self.budget.counter.take(nbytes)
        if others is not None:
            raise self.budget.no_room(others, nbytes)

    def too_large(self, nbytes: int) -> ResourceExhausted:
        """Return the refusal of a message of so many bytes."""
        error = ResourceExhausted(
            f"the request takes {nbytes} bytes, more than the {self.max_request_bytes} of "
            "--max_request_bytes: send fewer rows at a time"
        )
        error.reason = "request_size"
        return error
