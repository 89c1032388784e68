"""What several workers count, as one server's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.monitoring.families import Counters, Family, Gauges, Histograms, text
from ladle.server.wiring.workers.deciding.merging import FamilyData, merged, totals
from ladle.server.wiring.workers.frames import Decoder, encode
from ladle.server.wiring.workers.serving.families_data import from_data, to_data

COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 100), min_size=1)


def counters(counts: dict[str, int]) -> FamilyData:
    family = Counters("requests", "model", about="Requests.")
    for label, count in counts.items():
        family.add(count, label)
    return to_data(family)


def series(data: FamilyData) -> dict[tuple[str, ...], object]:
    return {tuple(labels): value for labels, value in data["series"]}


@given(st.lists(COUNTS, min_size=1, max_size=4))
def test_counters_are_added_up(workers: list[dict[str, int]]) -> None:
    (family,) = merged([[counters(counts)] for counts in workers])
    expected = {
        (label,): sum(counts.get(label, 0) for counts in workers)
        for label in {label for counts in workers for label in counts}
    }
    assert series(family) == expected


@given(st.lists(st.lists(st.floats(0, 20), min_size=1), min_size=1, max_size=4))
def test_histograms_are_those_of_all_values(workers: list[list[float]]) -> None:
    def histograms(values: list[float]) -> Histograms:
        family = Histograms("took", [1.0, 10.0], "model")
        family.observe(values, "a")
        return family

    (family,) = merged([[to_data(histograms(values))] for values in workers])
    together = histograms([value for values in workers for value in values]).values["a",]
    ((_, (counts, total)),) = family["series"]
    assert counts == together.counts
    assert total == pytest.approx(together.sum)


def gauge(across: str, *series: tuple[tuple[str, ...], float]) -> list[FamilyData]:
    family = Gauges("g", *["label"] * len(series[0][0]), across=across)  # type: ignore[arg-type]
    for labels, value in series:
        family.set(value, *labels)
    return [to_data(family)]


@pytest.mark.parametrize(("across", "value"), [("sum", 5), ("most", 4), ("mean", 2.5)])
def test_gauges_have_a_sense_each(across: str, value: float) -> None:
    (family,) = merged([gauge(across, (("a",), 1)), gauge(across, (("a",), 4))])
    assert series(family) == {("a",): value}


def test_the_mean_is_of_those_that_have_it() -> None:
    (family,) = merged([gauge("mean", (("a",), 1)), gauge("mean", (("b",), 3))])
    assert series(family) == {("a",): 1, ("b",): 3}


def test_a_version_is_as_far_as_its_last_worker() -> None:
    one = gauge("state", (("m", "1", "AVAILABLE"), 1), (("m", "2", "LOADING"), 1))
    other = gauge("state", (("m", "1", "UNLOADING"), 1), (("m", "2", "AVAILABLE"), 1))
    (family,) = merged([one, other])
    assert series(family) == {("m", "1", "AVAILABLE"): 1, ("m", "2", "LOADING"): 1}


def test_what_has_ended_is_kept_but_for_gauges_and_within_a_bound() -> None:
    many = counters({str(number): 1 for number in range(6000)})
    kept = totals([[many], gauge("sum", (("a",), 1)), [counters({"0": 2})]])
    (family,) = kept
    assert len(family["series"]) == 5000
    assert series(family)["0",] == 3  # what was counted in last is there


@pytest.mark.parametrize(
    "family",
    [Counters("c", "a", about="C."), Gauges("g", across="mean"), Histograms("h", [1.0, 2.5], "a")],
)
def test_families_are_the_same_after_a_way_as_json(family: Family) -> None:
    labels = ("x",) * len(family.labels)
    if isinstance(family, Histograms):
        family.observe([0.5, 7.0], *labels)
    else:
        family.add(2.5, *labels)
    (message,) = Decoder().feed(encode({"op": "x", "body": to_data(family)}))
    again = from_data(message["body"])
    assert text([again]) == text([family])
    assert to_data(again) == to_data(family)
