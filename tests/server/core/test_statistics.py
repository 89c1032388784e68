from __future__ import annotations

import sys
from copy import deepcopy

from ladle.server.core.statistics import Duration, StepDurations, VersionStatistics


def statistics(sizes: int) -> VersionStatistics:
    one = VersionStatistics(Duration(1, 0.5), Duration(2, 0.25), Duration(3, 0.125))
    one.rows, one.runs, one.last_ended = 4, 5, 6.0
    one.batches = {size: StepDurations(Duration(size, 1.0)) for size in range(sizes)}
    return one


def test_a_copy_has_the_same_figures_and_none_of_the_objects() -> None:
    one = statistics(3)
    copy = one.copied()
    before = deepcopy(one)
    assert copy == before
    for duration in (one.success, one.fail, one.queue, one.steps.input, one.batches[1].output):
        duration.add(1, 1.0)
    del one.batches[2]
    assert copy == before


def test_a_copy_takes_a_few_calls_for_each_size() -> None:
    """Requests wait for it: deepcopy took 80 ms for the sizes that there may be."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    one = statistics(100)
    sys.setprofile(count)
    try:
        one.copied()
    finally:
        sys.setprofile(None)
    assert calls < 100 * 10
