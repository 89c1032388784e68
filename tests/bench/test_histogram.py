from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.bench.histogram import Histogram


@given(
    st.lists(st.floats(min_value=1e-6, max_value=5_000), min_size=1, max_size=60),
    st.floats(min_value=0, max_value=1),
)
def test_percentiles_are_within_a_hundredth_of_the_exact_ones(
    durations: list[float], share: float
) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    exact = sorted(durations)[max(math.ceil(share * len(durations)) - 1, 0)]
    assert histogram.percentile(share) == pytest.approx(exact, rel=0.01)
    assert histogram.percentile(1) <= histogram.max_s == max(durations)
    assert sum(count for _, count in histogram.buckets()) == histogram.count == len(durations)


def test_of_nothing_every_percentile_is_zero() -> None:
    assert Histogram().percentile(0.99) == 0.0


@pytest.mark.parametrize("duration", [0.0, -1.0, 1e9, math.inf])
def test_any_duration_is_counted(duration: float) -> None:
    histogram = Histogram()
    histogram.add(duration)
    assert histogram.count == 1
