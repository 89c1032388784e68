"""When a worker that died is started again, and when that has no point any more."""

from __future__ import annotations

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 30.0
STEADY_S = 60.0
"""A worker that served for so long starts the waits anew."""
MOST_EARLY_DEATHS = 3
"""So many workers in a row may die before they served, while no other serves."""


def wait_s(deaths: int) -> float:
    """Return how long to wait after so many deaths in a row: 1, 2, 4 ... 30 s."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(deaths - 1, 10))


def deaths_in_a_row(before: int, served_s: float | None) -> int:
    """Return how many deaths there are in a row by now.

    Args:
        before: how many there were.
        served_s: how long the worker that died had served; None if it never did.
    """
    return 1 if served_s is not None and served_s >= STEADY_S else before + 1


def is_pointless(early_deaths: int, serving: int) -> bool:
    """Whether nothing would come of one more start.

    Args:
        early_deaths: how many workers died before they served, since the last one that did.
        serving: how many workers serve.
    """
    return early_deaths >= MOST_EARLY_DEATHS and not serving
