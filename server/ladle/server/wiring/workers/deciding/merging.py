"""Adds up what workers count. A family is plain data here, as `families_data.py` makes it.

`{"name", "kind", "labels", "about", "across", "bounds", "series"}`; a series is its labels' values
and its value: a number, or a histogram's counts and sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

FamilyData: TypeAlias = "dict[str, Any]"

# Of what workers counted that have ended, so many series of each family are kept.
_MOST_SERIES = 5000
# From the state that is furthest from answering requests.
_STATES = ("START", "LOADING", "AVAILABLE", "UNLOADING", "END")


def merged(workers: Iterable[Sequence[FamilyData]]) -> list[FamilyData]:
    """Return the families of several workers as one server's.

    Counters and histograms are added up. Gauges are merged as their `across` says: `sum`, `most`
    (the largest), `mean`, or `state` (1 for the least advanced of the states, the last label).
    """
    found: dict[str, list[FamilyData]] = {}
    for families in workers:
        for family in families:
            same = found.setdefault(family["name"], [])
            if not same or _is_alike(same[0], family):
                same.append(family)
    return [{**same[0], "series": _SERIES[same[0]["across"]](same)} for same in found.values()]


def totals(workers: Iterable[Sequence[FamilyData]]) -> list[FamilyData]:
    """Return the sums that stay when workers end: without gauges, and bounded.

    Where there are too many series, those that were counted in first go.
    """
    kept = []
    for family in merged(workers):
        if family["kind"] != "gauge":
            kept.append({**family, "series": family["series"][-_MOST_SERIES:]})
    return kept


def _is_alike(one: FamilyData, other: FamilyData) -> bool:
    return all(one[key] == other[key] for key in ("kind", "labels", "bounds"))


def _summed(same: Sequence[FamilyData]) -> list[Any]:
    return _folded(same, _add)


def _largest(same: Sequence[FamilyData]) -> list[Any]:
    return _folded(same, max)


def _mean(same: Sequence[FamilyData]) -> list[Any]:
    counts: dict[tuple[str, ...], int] = {}
    for family in same:
        for labels, _ in family["series"]:
            counts[tuple(labels)] = counts.get(tuple(labels), 0) + 1
    return [[labels, value / counts[tuple(labels)]] for labels, value in _summed(same)]


def _least_advanced(same: Sequence[FamilyData]) -> list[Any]:
    states: dict[tuple[str, ...], str] = {}
    for family in same:
        for (*which, state), _ in family["series"]:
            known = states.setdefault(tuple(which), state)
            states[tuple(which)] = min(known, state, key=_advance)
    return [[[*which, state], 1] for which, state in states.items()]


def _advance(state: str) -> int:
    return _STATES.index(state) if state in _STATES else len(_STATES)


def _folded(same: Sequence[FamilyData], fold: Callable[[Any, Any], Any]) -> list[Any]:
    values: dict[tuple[str, ...], Any] = {}
    for family in same:
        for labels, value in family["series"]:
            key = tuple(labels)
            # Taken out and put in again: what was counted in last comes last.
            known = values.pop(key, None)
            values[key] = value if known is None else fold(known, value)
    return [[list(labels), value] for labels, value in values.items()]


def _add(one: Any, other: Any) -> Any:
    if isinstance(one, list):
        (counts, total), (more, more_total) = one, other
        return [[a + b for a, b in zip(counts, more, strict=True)], total + more_total]
    return one + other


_SERIES: dict[str, Callable[[Sequence[FamilyData]], list[Any]]] = {
    "sum": _summed,
    "most": _largest,
    "mean": _mean,
    "state": _least_advanced,
}
