from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ladle.server.monitoring.families import Counters, Gauges, Histograms, exponential, slices, text


def test_a_counter_is_shown_under_its_own_name_and_not_as_total() -> None:
    counters = Counters(":tensorflow:serving:request_count", "model_name", "status")
    counters.add(2, "m", "OK")
    counters.add(1, "m", "OK")

    assert text([counters]) == (
        "# TYPE :tensorflow:serving:request_count counter\n"
        ':tensorflow:serving:request_count{model_name="m",status="OK"} 3\n'
    )
    assert counters.total == 3


def test_what_has_no_values_is_left_out() -> None:
    assert text([Counters("c", "a"), Histograms("h", [1.0])]) == ""


def test_a_histogram_counts_each_value_below_all_bounds_that_it_is_not_above() -> None:
    histograms = Histograms("h", [10.0, 18.0], "a")
    histograms.observe([1, 10, 10.5, 18, 19], "x")
    histograms.observe([], "never seen")

    assert text([histograms]) == (
        "# TYPE h histogram\n"
        'h_bucket{a="x",le="10"} 2\n'
        'h_bucket{a="x",le="18"} 4\n'
        'h_bucket{a="x",le="+Inf"} 5\n'
        'h_sum{a="x"} 58.5\n'
        'h_count{a="x"} 5\n'
    )


def test_a_histogram_without_labels_and_with_a_scale() -> None:
    histograms = Histograms("h", [10.0], scale=1e6)
    histograms.observe([0.000005])

    assert 'h_bucket{le="10"} 1\n' in text([histograms])
    assert "h_sum 5\n" in text([histograms])


def test_bounds_are_written_as_upstream_writes_them() -> None:
    histograms = Histograms("h", exponential(10, 1.8, 33))
    histograms.observe([1])

    histograms.observe([500e-6 * 1e6])
    shown = text([histograms])
    assert [f'le="{b}"' in shown for b in ("10", "18", "32.4", "104.976", "188.957")] == [True] * 5


def test_buckets_beyond_all_values_are_left_out_but_for_those_that_quantiles_lie_between() -> None:
    histograms = Histograms("h", exponential(1, 2, 20))
    histograms.observe([10, 50])

    lines = text([histograms]).splitlines()
    assert [line for line in lines if "bucket" in line] == [
        'h_bucket{le="8"} 0',
        'h_bucket{le="16"} 1',
        'h_bucket{le="32"} 1',
        'h_bucket{le="64"} 2',
        'h_bucket{le="+Inf"} 2',
    ]


@pytest.mark.parametrize(
    ("value", "bounds"), [(0.5, ["1", "+Inf"]), (9, ["8", "+Inf"]), (8, ["4", "8", "+Inf"])]
)
def test_the_first_and_the_last_bucket_are_shown_once(value: float, bounds: list[str]) -> None:
    histograms = Histograms("h", exponential(1, 2, 4))
    histograms.observe([value])
    assert re.findall(r'le="([^"]*)"', text([histograms])) == bounds


def test_a_copy_stays_as_it_was() -> None:
    counters, histograms = Counters("c", "a"), Histograms("h", [1.0])
    counters.add(1, "x")
    histograms.observe([0.5])
    copies: list[Counters | Histograms] = [counters.copied(), histograms.copied()]
    before = text(copies)
    counters.add(1, "y")
    histograms.observe([0.5])
    assert text(copies) == before


def test_slices_are_the_text_in_pieces() -> None:
    counters, empty = Counters("c", "a"), Counters("e")
    for name in "abcde":
        counters.add(1, name)
    pieces = list(slices([counters, empty, counters], 4))
    assert [piece.count("\n") for piece in pieces] == [4, 4, 4]
    assert "".join(pieces) == text([counters, counters])


def test_labels_can_hold_anything_and_prometheus_reads_them_back() -> None:
    name = 'a"b\\c\nd{},= é'
    gauges = Gauges("g", "model", about="What it is.")
    gauges.set(0.5, name)

    (family,) = text_string_to_metric_families(text([gauges]))
    assert family.documentation == "What it is."
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"model": name}, 0.5)


def test_series_are_forgotten_by_their_labels() -> None:
    counters = Counters("c", "model", "version", "code")
    for version in ("1", "2"):
        counters.add(1, "m", version, "OK")
    counters.add(1, "n", "1", "OK")

    counters.forget(model="m", version="1")
    counters.forget(model_path="/m/1")

    assert set(counters.values) == {("m", "2", "OK"), ("n", "1", "OK")}
