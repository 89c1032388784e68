from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.batching.plan import BatchOptions, RunNow, WaitUntil, decide


@dataclass
class Request:
    rows: int
    arrived: float = 0.0
    is_cut: bool = False
    rows_of_each: int = 0


def waiting(*rows: int) -> list[Request]:
    return [Request(n, arrived=float(i)) for i, n in enumerate(rows)]


OPTIONS = BatchOptions(max_batch_size=4)
SPLITTING = replace(OPTIONS, enable_large_batch_splitting=True)


@pytest.mark.parametrize(
    ("rows", "options", "batch", "last_rows"),
    [
        ([1], OPTIONS, 1, 1),
        ([1, 2, 1, 1], OPTIONS, 3, 1),
        ([3, 2], OPTIONS, 1, 3),
        ([9, 1], OPTIONS, 1, 9),
        ([1, 9], OPTIONS, 1, 1),
        ([3, 2], SPLITTING, 2, 1),
        ([9], SPLITTING, 1, 4),
        ([4, 4], SPLITTING, 1, 4),
        ([9], replace(SPLITTING, max_execution_batch_size=3), 1, 3),
    ],
)
def test_a_batch_takes_from_the_head_what_fits(
    rows: list[int], options: BatchOptions, batch: int, last_rows: int
) -> None:
    queue = waiting(*rows)

    assert decide(queue, 0, 10.0, options) == RunNow(queue[:batch], last_rows)


def test_nothing_runs_beyond_the_threads_or_without_requests() -> None:
    two = replace(OPTIONS, num_batch_threads=2)

    assert decide(waiting(), 0, 0.0, OPTIONS) is None
    assert decide(waiting(1), 1, 0.0, OPTIONS) is None
    assert isinstance(decide(waiting(1), 1, 0.0, two), RunNow)
    assert decide(waiting(1), 2, 0.0, two) is None


def test_a_batch_that_is_not_full_waits_for_its_timeout_from_its_first_request() -> None:
    patient = replace(OPTIONS, batch_timeout_s=0.5)
    queue = [Request(1, arrived=7.0), Request(1, arrived=7.4)]

    assert decide(queue, 0, 7.4, patient) == WaitUntil(7.5)
    assert decide(queue, 0, 7.5, patient) == RunNow(queue, 1)


@pytest.mark.parametrize("rows", [[4], [2, 2], [3, 2], [5]])
def test_a_full_batch_does_not_wait(rows: list[int]) -> None:
    patient = replace(OPTIONS, batch_timeout_s=100.0)

    assert isinstance(decide(waiting(*rows), 0, 4.0, patient), RunNow)


@given(
    rows=st.lists(st.integers(1, 12), min_size=1),
    most=st.integers(1, 10),
    split=st.booleans(),
)
def test_a_batch_is_a_prefix_within_the_limit(rows: list[int], most: int, split: bool) -> None:
    queue = waiting(*rows)
    options = BatchOptions(max_batch_size=most, enable_large_batch_splitting=split)

    run = decide(queue, 0, 0.0, options)

    assert isinstance(run, RunNow)
    assert run.batch == queue[: len(run.batch)]
    assert 1 <= run.last_rows <= run.batch[-1].rows
    total = sum(task.rows for task in run.batch[:-1]) + run.last_rows
    assert total <= most or (len(run.batch) == 1 and not split)
    if len(run.batch) < len(queue):
        following = 1 if split else queue[len(run.batch)].rows
        assert total + following > most


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_batch_size": 0}, "max_batch_size: expected 1 or more, got 0"),
        ({"max_enqueued_batches": 0}, "max_enqueued_batches: expected 1 or more, got 0"),
        ({"num_batch_threads": 0}, "num_batch_threads: expected 1 or more, got 0"),
        ({"batch_timeout_s": -1}, "batch_timeout_s: expected 0 or more, got -1"),
        ({"max_execution_batch_size": 5}, "expected 1 to max_batch_size, which is 4, got 5"),
        ({"allowed_batch_sizes": (1, 2)}, r"the last of them max_batch_size, which is 4, got"),
        ({"allowed_batch_sizes": (2, 2, 4)}, "expected ascending sizes"),
    ],
)
def test_options_are_checked(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(OPTIONS, **wrong)


def test_a_batch_is_padded_up_to_an_allowed_size() -> None:
    options = BatchOptions(max_batch_size=8, allowed_batch_sizes=(2, 8))

    assert [options.padded(n) for n in (1, 2, 3, 8, 9)] == [2, 2, 8, 8, 9]


def test_a_request_that_was_cut_is_cut_to_its_end_though_splitting_was_turned_off() -> None:
    """Else what is left of it could make a batch over the limit, which no request asked for."""
    left = Request(6, is_cut=True)
    assert decide([left], 0, now=9.0, options=OPTIONS) == RunNow([left], 4)

    last = Request(2, is_cut=True)
    assert decide([last], 0, now=9.0, options=OPTIONS) == RunNow([last], 2)


def test_requests_that_wait_as_one_are_cut_between_them_and_no_other_way() -> None:
    """Whatever is said about requests that are cut."""
    group = Request(6, rows_of_each=2)
    for splits in (False, True):
        options = BatchOptions(max_batch_size=5, enable_large_batch_splitting=splits)
        assert decide([group], 0, 0.0, options) == RunNow([group], 4)
        one, two = waiting(1, 2)
        assert decide([one, two, group], 0, 0.0, options) == RunNow([one, two, group], 2)
        three = Request(4)
        assert decide([three, group], 0, 0.0, options) == RunNow([three], 4)
    small = BatchOptions(max_batch_size=1)
    assert decide([group], 0, 0.0, small) == RunNow([group], 2), "one runs, however large"
