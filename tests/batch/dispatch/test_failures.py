from __future__ import annotations

import numpy as np
import pytest

from ladle.batch.dispatch.failures import HOPELESS_ROWS, FailureCounter, end_of_run
from ladle.batch.errors import BatchError, ModelLost
from ladle.batch.rows import Answered, FailedRow
from ladle.client.errors import LadleError, NotFound, ServerError, Unavailable


def good(rows: int = 1) -> Answered:
    return Answered(start=0, stop=rows, numbers=np.arange(rows), outputs={})


def bad(row: int, rows: int = 1) -> Answered:
    failed = tuple(FailedRow(each, "BAD", f"bad {each}") for each in range(row, row + rows))
    return Answered(start=row, stop=row + rows, numbers=np.arange(0), outputs={}, failed=failed)


def counter(
    max_failed: int | None = None, rows_before: int = 0, failed_before: int = 0
) -> FailureCounter:
    return FailureCounter(max_failed, rows_before=rows_before, failed_before=failed_before)


def test_the_first_rows_may_not_all_fail() -> None:
    counted = counter()
    counted.count(bad(1, HOPELESS_ROWS - 1))
    with pytest.raises(BatchError, match=r"the first 200 rows all failed, .*; row 0: bad 0"):
        counted.count(bad(0))


@pytest.mark.parametrize(
    ("rows_before", "failed_before", "is_hopeless"), [(0, 0, True), (9, 9, True), (9, 8, False)]
)
def test_a_row_that_an_earlier_run_had_answered_is_hope(
    rows_before: int, failed_before: int, is_hopeless: bool
) -> None:
    counted = counter(None, rows_before, failed_before)
    if is_hopeless:
        with pytest.raises(BatchError, match="the first 200 rows all failed"):
            counted.count(bad(9, HOPELESS_ROWS))
    else:
        counted.count(bad(9, HOPELESS_ROWS))


def test_any_number_may_fail_beside_others() -> None:
    counted = counter()
    counted.count(good())
    counted.count(bad(1, 10_000))


def test_no_more_may_fail_than_is_said_in_all_runs() -> None:
    counted = counter(3, rows_before=10, failed_before=2)
    counted.count(good(100))
    counted.count(bad(110))
    with pytest.raises(BatchError, match="more than 3 rows failed; row 110: bad 110"):
        counted.count(bad(111))


def test_as_many_as_are_allowed_may_be_the_first() -> None:
    counter(1_000).count(bad(0, 1_000))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (Unavailable("gone"), ModelLost, "no answer for 61 s: gone"),
        (NotFound("no version 3"), ModelLost, "no version 3; if another version has taken over"),
        (ServerError("broken"), BatchError, "broken"),
    ],
)
def test_why_a_run_ends(error: LadleError, kind: type[BatchError], message: str) -> None:
    ended = end_of_run(error, silent_s=61.2)
    assert type(ended) is kind
    assert str(ended).startswith(message)
