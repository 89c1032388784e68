"""Whether a version on trial does worse than it may: a decision about counts, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

GOOD, WORSE, HELD, NO_VERDICT = "good", "worse", "held", "no verdict"


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a canary gets nothing more."""

    min_requests: int = 100
    """With fewer requests of late there is no verdict."""
    max_error_ratio: float = 0.01
    """The part of its requests that may fail, from 0 to 1."""
    max_errors_to_stable: float = 2.0
    """How many times stable's part may fail: requests that are wrong in themselves fail at both."""
    max_p99_to_stable: float = 0.0
    """How many times stable's 99th percentile its own may be; 0 for any."""
    max_disagreement: float = 0.0
    """The part of the rows that its shadow may have otherwise than stable, from 0 to 1; 0 for
    any."""


class Figures(NamedTuple):
    """How a version does, of late."""

    requests: int
    failures: int
    p99_s: float | None
    """Of its answers; None if there were none."""
    compared: int = 0
    """Requests to stable that have run on it too, as a shadow."""
    disagreement: float = 0.0
    """The part of their rows that came out otherwise, from 0 to 1."""

    @property
    def error_ratio(self) -> float:
        """The part of its requests that failed, from 0 to 1."""
        return self.failures / self.requests if self.requests else 0.0


def breach(guard: Guard, canary: Figures, stable: Figures) -> str:
    """Return why the canary is to get nothing more, in a sentence; empty if it may go on."""
    disagrees = guard.max_disagreement and canary.disagreement > guard.max_disagreement
    if disagrees and canary.compared >= guard.min_requests:
        return (
            f"{canary.disagreement:.2%} of the rows of {canary.compared} requests came out "
            f"otherwise than from stable, expected at most {guard.max_disagreement:.2%}"
        )
    if canary.requests < guard.min_requests:
        return ""
    allowed = max(guard.max_error_ratio, guard.max_errors_to_stable * stable.error_ratio)
    if canary.error_ratio > allowed:
        return (
            f"{canary.failures} of {canary.requests} requests failed: "
            f"{canary.error_ratio:.2%}, expected at most {allowed:.2%}"
        )
    is_compared = guard.max_p99_to_stable and stable.requests >= guard.min_requests
    if is_compared and canary.p99_s is not None and stable.p99_s:
        times = canary.p99_s / stable.p99_s
        if times > guard.max_p99_to_stable:
            return (
                f"its 99th percentile is {canary.p99_s * 1000:.3g} ms, {times:.2f} times stable's: "
                f"expected at most {guard.max_p99_to_stable:g} times"
            )
    return ""


def verdict(guard: Guard, canary: Figures, stable: Figures) -> tuple[str, str]:
    """Return GOOD, WORSE or NO_VERDICT for a canary that nobody holds, and why, in words."""
    if reason := breach(guard, canary, stable):
        return WORSE, reason
    is_compared = guard.max_disagreement and canary.compared >= guard.min_requests
    if canary.requests < guard.min_requests and not is_compared:
        had = f"{canary.requests} requests in the last minute"
        if guard.max_disagreement:
            had += f" and {canary.compared} compared"
        return NO_VERDICT, f"it had {had}: expected {guard.min_requests}"
    return GOOD, "it keeps what is asked of it"
