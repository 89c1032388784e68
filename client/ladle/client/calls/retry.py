"""Whether a failed call is retried, and how many retries there are in all; no I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock

import grpc

NOT_TAKEN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""The statuses of calls that no server processed. grpcio's server gives CANCELLED to calls that
arrive in the moment when it begins to stop."""

# The longest wait before an attempt, however often the call has failed.
_MAX_BACKOFF_S = 5.0
# The tokens that a budget starts with, and its maximum: about as many calls as a killed server may
# have had in flight, since each goes to another server.
_BUDGET_TOKENS = 200.0
_ENDLESS = 1 << 30
# The tokens that each call adds: in the long run one call in five can be retried.
_RETRY_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How calls are retried that no server processed. Other failures are not retried."""

    max_attempts: int = 5
    """The most attempts of a call, the first included; 1 for no retries."""
    initial_backoff_s: float = 0.1
    """About how long to wait before the first retry, in seconds. The wait doubles with each retry,
    up to 5 s. There is no wait before an address that this call hasn't tried."""

    def patient(self) -> Retry:
        """Return this policy without a bound on attempts; one without retries stays as it is."""
        return self if self.max_attempts == 1 else replace(self, max_attempts=_ENDLESS)

    def __post_init__(self) -> None:
        """Check the ranges of the fields."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts: expected 1 or more, got {self.max_attempts}")
        if not 0 < self.initial_backoff_s <= _MAX_BACKOFF_S:
            raise ValueError(
                f"initial_backoff_s: expected more than 0 and at most {_MAX_BACKOFF_S}, "
                f"got {self.initial_backoff_s}"
            )


@dataclass(frozen=True, kw_only=True)
class Hedge:
    """When a slow prediction is also sent to a second server.

    The first answer counts, and the other call is cancelled. Both servers may do the work.
    """

    after_s: float
    """How long to wait for the first server, in seconds; the 95th percentile is a good choice."""
    max_share: float = 0.05
    """The largest share of predictions with a second attempt; more than 0, at most 1."""

    def __post_init__(self) -> None:
        """Check the ranges of the fields."""
        if not self.after_s > 0:
            raise ValueError(f"after_s: expected more than 0, got {self.after_s}")
        if not 0 < self.max_share <= 1:
            raise ValueError(f"max_share: expected more than 0 and at most 1, got {self.max_share}")


def should_retry(
    code: grpc.StatusCode,
    attempt: int,
    *,
    policy: Retry,
    remaining_s: float,
    pushback: str | None,
    is_elsewhere: bool,
    jitter: float,
) -> float | None:
    """Return how many seconds to wait before the call is made again, or None to give up.

    `attempt` counts those made, from 1. `pushback` is the server's `grpc-retry-pushback-ms`: how
    long to wait, or not to come back where it isn't a number from 0 (gRPC's retry design, A6).
    `is_elsewhere` means that the next attempt goes to an address that this call hasn't tried.
    `jitter` is a random number from 0 to 1, so that callers who failed together come back apart.
    """
    if code not in NOT_TAKEN or attempt >= policy.max_attempts:
        return None
    if pushback is not None:
        # Nine digits are more than a week, and int() takes time for thousands.
        if not (pushback.isascii() and pushback.isdigit() and len(pushback) < 10):
            return None
        delay_s = int(pushback) / 1000
    elif is_elsewhere:
        delay_s = 0.0
    else:
        backoff_s = min(policy.initial_backoff_s * 2 ** min(attempt - 1, 16), _MAX_BACKOFF_S)
        delay_s = backoff_s * (0.5 + jitter / 2)
    return delay_s if delay_s < remaining_s else None


class Budget:
    """How many calls may still be made a second time, so that a fleet in trouble is not drowned.

    Every first attempt earns a share of a token, and every further one takes a whole. Thread-safe.
    """

    def __init__(self, share: float = _RETRY_SHARE, tokens: float = _BUDGET_TOKENS) -> None:
        self._share = share
        self._max_tokens = self._tokens = tokens
        self._lock = Lock()

    def earn(self) -> None:
        """Count a call."""
        if self._tokens < self._max_tokens:  # full in a healthy fleet: then there's no lock
            with self._lock:
                self._tokens = min(self._tokens + self._share, self._max_tokens)

    def take(self) -> bool:
        """Take the token of one more attempt; return whether there was one."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
