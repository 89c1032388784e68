"""What happens to a request that failed; decisions alone."""

from __future__ import annotations

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

# How often a request is sent again while others succeed. After that, the request is the cause.
MAX_REFUSALS = 8
_FIRST_WAIT_S = 0.1
_MAX_WAIT_S = 5.0

Verdict: TypeAlias = Literal["again", "split", "fail", "stop"]
"""`again`: send the request later. `split`: send its rows in two requests. `fail`: its only row has
failed. `stop`: no request can succeed any more."""

# This side cancels no request, but grpcio's servers do when they begin to stop.
_OVERLOADS = (Overloaded, Unavailable, DeadlineExceeded, Cancelled)
_NEVER = (
    NotFound,
    FailedPrecondition,
    Unimplemented,
    Unauthenticated,
    PermissionDenied,
)


def is_overload(error: LadleError) -> bool:
    """Tell whether the server had too much to do, or could not be reached."""
    return isinstance(error, _OVERLOADS)


def verdict(error: LadleError, rows: int, refusals: int, *, is_patient: bool) -> Verdict:
    """Decide about a request of `rows` rows that failed with `error`.

    `refusals` counts how often the server was too busy for this request while it answered others,
    this time included. `is_patient` is False once no request has been answered for too long.
    """
    if isinstance(error, _NEVER):
        return "stop"
    if isinstance(error, DeadlineExceeded) and rows > 1:
        return "split"  # half the rows take less time
    if is_overload(error) and refusals < MAX_REFUSALS:
        return "again" if is_patient else "stop"
    return "split" if rows > 1 else "fail"


def wait_s(attempts: int) -> float:
    """Return how long a request waits after `attempts` refusals, from 1."""
    return float(min(_FIRST_WAIT_S * 2 ** min(attempts - 1, 16), _MAX_WAIT_S))
