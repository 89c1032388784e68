"""Hold out whole groups of examples, such as all the photos of one person."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import DataError

_FEW, _MANY = 0.5, 1.75


def grouped_holdout(
    groups: NDArray[np.int64], classes: NDArray[np.int64], share: float
) -> NDArray[np.bool_]:
    """Return which examples are held out: whole groups, about `share` of each class.

    The largest groups are decided first, each by whether the held-out part comes nearer to its
    share of every class. A group stays where the rest would have no example of a class.

    Args:
        groups: The number of each example's group.
        classes: The class of each example, from 0; all 0 where there are none.
        share: How much to hold out, above 0 and below 1.
    """
    held_out = np.zeros(len(groups), bool)
    totals = np.bincount(classes)
    missing, rest = totals * share, totals.copy()
    smallest: NDArray[np.intp] | None = None
    for members in _by_size(groups):
        found, counts = np.unique(classes[members], return_counts=True)
        if np.any(rest[found] <= counts):
            continue
        smallest = members
        nearer = np.abs(missing[found]) - np.abs(missing[found] - counts)
        if nearer.sum() > 0:
            held_out[members] = True
            missing[found] -= counts
            rest[found] -= counts
    if smallest is not None and not held_out.any():
        held_out[smallest] = True  # too many by its size, and better than nothing
    return held_out


def check_groups(
    name: str, groups: NDArray[np.int64], held_out: NDArray[np.bool_], share: float
) -> tuple[str, ...]:
    """Return a note where the held-out part is far from its share of the examples.

    Raises:
        DataError: No group could be held out.
    """
    if not held_out.any():
        raise DataError(
            f"{name}: expected at least two groups with examples of each class, so that one can be"
            f" held out, got {len(np.unique(groups))} groups"
        )
    held = float(held_out.mean())
    if _FEW * share <= held <= _MANY * share:
        return ()
    n_groups = len(np.unique(groups[held_out]))
    return (
        f"{held:.0%} of the examples are held out, {n_groups} of {len(np.unique(groups))} groups:"
        f" the groups' sizes allow nothing nearer to {share:.0%}",
    )


def _by_size(groups: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Yield the places of each group's examples: the largest group first, then as they come."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    members.sort(key=lambda places: (-len(places), places[0]))
    yield from members
