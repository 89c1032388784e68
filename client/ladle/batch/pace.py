"""How many requests are in flight, and what becomes of one that failed: decisions alone.

Additive increase, multiplicative decrease, as TCP does it: each round of answers without a
complaint allows one request more, and a complaint halves them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    LadleError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

FIRST_IN_FLIGHT = 4
# How often a request is sent again while others succeed, until it is taken for the cause.
MAX_REFUSALS = 8
_FIRST_WAIT_S = 0.1
_MAX_WAIT_S = 5.0

Verdict: TypeAlias = Literal["again", "split", "fail", "stop"]
"""What becomes of a request that failed: it is sent again later, its rows are sent in two requests,
its only row has failed, or no request can succeed any more."""

# Nobody cancels on this side; grpcio's servers do as they begin to stop.
_BUSY = (Overloaded, Unavailable, DeadlineExceeded, Cancelled)
_NEVER = (
    NotFound,
    FailedPrecondition,
    Unimplemented,
    Unauthenticated,
    PermissionDenied,
)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How many requests may be in flight."""

    allowed: float
    most: int
    """Never more than this."""
    halved_at: int = -1
    """The serial number of the last request sent when it was halved last."""

    @property
    def in_flight(self) -> int:
        """The whole requests that may be in flight; at least one."""
        return int(self.allowed)

    def at_most(self, most: int) -> Pace:
        """Return the pace with no more in flight than `most`."""
        if most >= self.most:
            return self
        return replace(self, allowed=min(self.allowed, float(most)), most=most)

    def after_answer(self, in_flight: int) -> Pace:
        """Return the pace after an answer, while `in_flight` were under way with it.

        It grows only where it is what holds requests back.
        """
        if in_flight < self.in_flight:
            return self
        return replace(self, allowed=min(self.allowed + 1 / self.allowed, float(self.most)))

    def after_complaint(self, serial: int, last_serial: int) -> Pace:
        """Return the pace after request `serial` was too much; `last_serial` was sent last.

        What was sent before the pace was halved doesn't halve it again.
        """
        if serial <= self.halved_at:
            return self
        return replace(self, allowed=max(self.allowed / 2, 1.0), halved_at=last_serial)


def is_busy(error: LadleError) -> bool:
    """Tell whether the server had too much to do, or was not there."""
    return isinstance(error, _BUSY)


def verdict(error: LadleError, rows: int, refusals: int, *, is_patient: bool) -> Verdict:
    """Return what becomes of a request of `rows` rows.

    `refusals` counts the times that the server was too busy for it, this one too, though it
    answered others in between: in the end the request itself is what it can't take. `is_patient`
    tells that there is time left for a server that answers nothing at all.
    """
    if isinstance(error, _NEVER):
        return "stop"
    if isinstance(error, DeadlineExceeded) and rows > 1:
        return "split"  # whatever takes its time, half of it takes less
    if is_busy(error) and refusals < MAX_REFUSALS:
        return "again" if is_patient else "stop"
    return "split" if rows > 1 else "fail"


def wait_s(attempts: int) -> float:
    """Return how long a request waits that a busy server has refused so many times, from 1."""
    return float(min(_FIRST_WAIT_S * 2 ** min(attempts - 1, 16), _MAX_WAIT_S))
