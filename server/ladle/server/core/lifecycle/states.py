"""The states of a version, and the decision what to do next, as functions of snapshots.

START ──► LOADING ──► AVAILABLE ──► UNLOADING ──► END
  └──────────┴─────────────────────────────────────▲

The names and numbers are GetModelStatus's own. No locks, threads or clock live here.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Literal, NamedTuple


class State(IntEnum):
    """Where a version stands, as `ModelVersionStatus.State` numbers it."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


HOLDING = (State.LOADING, State.AVAILABLE, State.UNLOADING)
"""The states in which a version takes memory."""

_NEXT = {
    State.START: {State.LOADING, State.END},
    State.LOADING: {State.AVAILABLE, State.END},
    State.AVAILABLE: {State.UNLOADING},
    State.UNLOADING: {State.END},
    State.END: set[State](),
}


def transition(current: State, to: State) -> State:
    """Return `to`, if a version may go there from `current`; anything else is a bug of ours."""
    if to not in _NEXT[current]:
        raise AssertionError(f"no way from {current.name} to {to.name}")
    return to


class VersionSnapshot(NamedTuple):
    """What the policy needs to know of one version of a model."""

    version: int
    state: State
    aspired: bool


class Load(NamedTuple):
    """Load this version now."""

    version: int


class Unload(NamedTuple):
    """Take this version out of service now."""

    version: int


TransitionPolicy = Literal["availability_preserving", "resource_preserving"]


def next_action(
    versions: Iterable[VersionSnapshot], policy: TransitionPolicy
) -> Load | Unload | None:
    """Return the one thing to do next for a model, or None to leave it as it is.

    Availability first: a version that is no longer aspired goes only once an aspired one is
    available, or nothing is aspired at all, or another like it remains. Resources first: whatever
    is not aspired is gone before anything loads. Either way a model loads one version at a time,
    the highest first.
    """
    snapshots = sorted(versions)
    ready = [v for v in snapshots if v.state is State.AVAILABLE]
    surplus = [v.version for v in ready if not v.aspired]
    loading = any(v.state is State.LOADING for v in snapshots)
    new = [v.version for v in snapshots if v.aspired and v.state is State.START]
    if policy == "resource_preserving":
        if surplus:
            return Unload(surplus[0])
        leaving = any(v.state is State.UNLOADING for v in snapshots)
        return Load(new[-1]) if new and not loading and not leaving else None
    nothing_aspired = not any(v.aspired for v in snapshots)
    if surplus and (nothing_aspired or any(v.aspired for v in ready) or len(surplus) > 1):
        return Unload(surplus[0])
    return Load(new[-1]) if new and not loading else None


def retry_wait_s(attempt: int, longest_s: float) -> float:
    """Return how long to wait before loading again what has failed `attempt` + 1 times.

    A second at first, for what a moment mends (a file still on its way), then twice as long each
    time, up to `longest_s`.
    """
    return max(0.0, min(longest_s, 2.0 ** min(attempt, 30)))
