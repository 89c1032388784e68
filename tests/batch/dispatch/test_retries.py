from __future__ import annotations

import pytest

from ladle.batch.dispatch.retries import MAX_REFUSALS, Verdict, verdict, wait_s
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidAnswer,
    InvalidInput,
    LadleError,
    MessageTooLarge,
    NotFound,
    Overloaded,
    ServerError,
    Unauthenticated,
    Unavailable,
)


@pytest.mark.parametrize(
    ("error", "rows", "refusals", "expected"),
    [
        (InvalidInput("x"), 8, 0, "split"),
        (InvalidInput("x"), 1, 0, "fail"),
        (MessageTooLarge("x"), 8, 0, "split"),
        (ServerError("x"), 2, 0, "split"),
        (InvalidAnswer("x"), 1, 0, "fail"),
        (Overloaded("x"), 8, 1, "again"),
        (Unavailable("x"), 1, 1, "again"),
        (Cancelled("x"), 1, 1, "again"),
        (DeadlineExceeded("x"), 8, 1, "split"),
        (DeadlineExceeded("x"), 1, 1, "again"),
        (DeadlineExceeded("x"), 1, MAX_REFUSALS, "fail"),
        (Overloaded("x"), 8, MAX_REFUSALS, "split"),
        (NotFound("x"), 8, 0, "stop"),
        (FailedPrecondition("x"), 1, 0, "stop"),
        (Unauthenticated("x"), 8, 0, "stop"),
    ],
)
def test_what_becomes_of_a_request_that_failed(
    error: LadleError, rows: int, refusals: int, expected: Verdict
) -> None:
    assert verdict(error, rows, refusals, is_patient=True) == expected


@pytest.mark.parametrize(
    ("error", "rows", "expected"),
    [
        (Unavailable("x"), 8, "stop"),
        (DeadlineExceeded("x"), 8, "split"),
        (DeadlineExceeded("x"), 1, "stop"),
        (InvalidInput("x"), 8, "split"),
    ],
)
def test_a_server_that_answers_nothing_ends_the_run_once_requests_are_small(
    error: LadleError, rows: int, expected: Verdict
) -> None:
    assert verdict(error, rows, 1, is_patient=False) == expected


def test_waits_grow_and_end_at_five_seconds() -> None:
    assert [wait_s(n) for n in (1, 2, 3, 100)] == [0.1, 0.2, 0.4, 5.0]
