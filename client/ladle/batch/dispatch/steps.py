"""What a run does next: a pure function of a snapshot.

A step always leads on. Send, Write, GiveUp and Finish need nothing from outside, and each wait is
for something that is bound to come: the answer of a request in flight, a moment, or the reader.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, kw_only=True)
class ScheduleState:
    """A snapshot of a run. Times are seconds of one monotonic clock."""

    now_s: float
    in_flight: int
    limit: int
    """How many requests may be in flight, at least 1."""
    retry_at_s: float | None
    """When the first of the requests that failed may be sent again; None where there is none."""
    has_unsent_rows: bool
    """Whether rows were read and not sent yet."""
    is_read: bool
    """Whether the reader has come to the input's end."""
    can_write: bool
    """Whether the answer to the next row in order is there."""
    backlog: int
    """Requests in flight, requests that will be sent again, and answers that wait for those."""
    max_backlog: int
    is_buffer_full: bool
    """Whether the answers that wait have as many bytes as they may."""
    silent_until_s: float
    """When a request in flight has been silent for too long."""


@dataclass(frozen=True)
class Send:
    """Send a request: one that failed before, else the next rows."""


@dataclass(frozen=True)
class Write:
    """Write the answer to the next rows."""


@dataclass(frozen=True)
class WaitForAnswers:
    """Wait for a request in flight, at most until that time."""

    until_s: float


@dataclass(frozen=True)
class WaitForRetry:
    """Wait until that time, when a request that failed may be sent again."""

    until_s: float


@dataclass(frozen=True)
class WaitForReader:
    """Wait for the reader's next chunk, or for the input's end."""


@dataclass(frozen=True)
class GiveUp:
    """End the run, because requests in flight come back in no time that they may take."""


@dataclass(frozen=True)
class Finish:
    """End the run, because every row is written."""


Step: TypeAlias = Send | Write | WaitForAnswers | WaitForRetry | WaitForReader | GiveUp | Finish


def next_step(state: ScheduleState) -> Step:
    """Return the one step to take now."""
    # Before anything is sent: answers that are not written count as backlog.
    if state.can_write:
        return Write()
    has_place = state.in_flight < state.limit
    if has_place and state.retry_at_s is not None and state.retry_at_s <= state.now_s:
        return Send()
    if has_place and state.has_unsent_rows and _takes_new_rows(state):
        return Send()
    if state.in_flight:
        if state.now_s >= state.silent_until_s:
            return GiveUp()
        if has_place and state.retry_at_s is not None:
            return WaitForAnswers(min(state.retry_at_s, state.silent_until_s))
        return WaitForAnswers(state.silent_until_s)
    if state.retry_at_s is not None:
        return WaitForRetry(state.retry_at_s)
    return Finish() if state.is_read else WaitForReader()


def _takes_new_rows(state: ScheduleState) -> bool:
    # A row that fails slowly holds up the answers to all later rows; their number is bounded. With
    # nothing under way nothing holds them up, and only new rows lead on.
    is_idle = not state.in_flight and state.retry_at_s is None
    return is_idle or (state.backlog < state.max_backlog and not state.is_buffer_full)
