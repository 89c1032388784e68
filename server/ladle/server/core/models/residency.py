"""Which models stay loaded where not all of them can: decisions, as functions of snapshots.

A **resident** is a model that is loaded, or about to be. No locks, threads or clock live here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# After so long room may be found where it depends on requests that are under way.
_REQUEST_S = 1.0


@dataclass(frozen=True, kw_only=True)
class ResidencyOptions:
    """How many models are loaded at a time, and for how long. 0 sets no limit."""

    max_models: int = 0
    """Models that are loaded at a time."""
    max_bytes: int = 0
    """What their versions may take of the heap, all together."""
    idle_s: float = 0.0
    """A model that nobody has asked for so long is unloaded."""
    least_stay_s: float = 30.0
    """A model is not unloaded sooner than this to make room for another: models that take turns
    would be loaded for each request."""


class Resident(NamedTuple):
    """What the decisions need to know of a resident."""

    name: str
    loaded_for_s: float | None
    """How long a version of it has been available; None while its first one loads."""
    last_use: int
    """Grows with each request: the smallest is the least recently used."""
    idle_s: float = 0.0
    """How long nothing has used it."""
    is_busy: bool = False
    """Whether requests hold it or wait for it."""
    is_pinned: bool = False
    """Whether it is always to be loaded."""
    nbytes: int = 0
    """What it takes of the heap."""


class Full(NamedTuple):
    """There is no room, and none can be made now."""

    retry_after_s: float | None
    """After so long there may be; None: never."""


def begin(residents: Iterable[Resident], options: ResidencyOptions) -> Full | None:
    """Return why one more model may not begin to load; None if it may.

    It may if there is a place, or if a loaded model could give one up for each that is missing.
    `surplus` decides which one does, once the new model has loaded.
    """
    residents = list(residents)
    missing = len(residents) + 1 - options.max_models
    if not options.max_models or missing <= 0:
        return None
    waits = sorted(wait for r in residents if (wait := _wait_s(r, options)) is not None)
    if len(waits) < missing:
        return Full(None)
    return Full(waits[missing - 1]) if waits[missing - 1] > 0 else None


def surplus(residents: Iterable[Resident], options: ResidencyOptions) -> list[str]:
    """Return the models to unload because more are loaded than may be."""
    loaded = [r for r in residents if r.loaded_for_s is not None]
    too_many = len(loaded) - options.max_models if options.max_models else 0
    return [r.name for r in _victims(loaded, options)[: max(0, too_many)]]


def idle(residents: Iterable[Resident], options: ResidencyOptions) -> list[str]:
    """Return the models to unload because nobody has asked for them for so long."""
    if not options.idle_s:
        return []
    return [
        r.name
        for r in residents
        if r.loaded_for_s is not None
        and not r.is_busy
        and not r.is_pinned
        and r.idle_s >= options.idle_s
    ]


def make_room(
    residents: Iterable[Resident], name: str, needed: int, options: ResidencyOptions
) -> list[str] | Full:
    """Return the models to unload before a version of so many bytes can load.

    Args:
        residents: those that there are, the model of the version perhaps among them.
        name: the model of the version; it is not unloaded for it.
        needed: what the version takes of the heap.
        options: the limits.
    """
    residents = list(residents)
    excess = sum(r.nbytes for r in residents) + needed - options.max_bytes
    if not options.max_bytes or excess <= 0:
        return []
    others = [r for r in residents if r.name != name and r.nbytes]
    chosen: list[str] = []
    for victim in _victims(others, options):
        if excess <= 0:
            break
        excess -= victim.nbytes
        chosen.append(victim.name)
    if excess <= 0:
        return chosen
    for wait_s, nbytes in sorted(
        (wait, r.nbytes)
        for r in others
        if r.name not in chosen and (wait := _wait_s(r, options)) is not None
    ):
        excess -= nbytes
        if excess <= 0:
            return Full(wait_s)
    return Full(None)


def _victims(residents: Iterable[Resident], options: ResidencyOptions) -> list[Resident]:
    """Return those that may be unloaded to make room, the least recently used first."""
    return sorted(
        (r for r in residents if _wait_s(r, options) == 0), key=lambda r: (r.last_use, r.name)
    )


def _wait_s(resident: Resident, options: ResidencyOptions) -> float | None:
    """Return after how long a resident may be unloaded to make room; None: never."""
    if resident.is_pinned:
        return None
    if resident.loaded_for_s is None:
        return max(options.least_stay_s, _REQUEST_S)
    stay_s = max(0.0, options.least_stay_s - resident.loaded_for_s)
    return max(stay_s, _REQUEST_S) if resident.is_busy else stay_s
