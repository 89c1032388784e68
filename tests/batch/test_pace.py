from __future__ import annotations

import pytest

from ladle.batch.pace import MAX_REFUSALS, Pace, Verdict, verdict, wait_s
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


def test_a_round_of_answers_allows_one_request_more() -> None:
    pace = Pace(allowed=4, most=32)
    for _ in range(4):
        pace = pace.after_answer(pace.in_flight)
    assert 4.8 < pace.allowed <= 5
    assert pace.after_answer(pace.in_flight).in_flight == 5


def test_a_pace_that_holds_nothing_back_does_not_grow() -> None:
    pace = Pace(allowed=4, most=32)
    assert pace.after_answer(3) == pace


def test_a_pace_never_passes_its_most() -> None:
    assert Pace(allowed=8, most=8).after_answer(8).allowed == 8


def test_a_complaint_halves_the_pace_once_for_all_that_was_sent_before() -> None:
    pace = Pace(allowed=16, most=32).after_complaint(serial=5, last_serial=20)
    assert pace.allowed == 8
    assert pace.after_complaint(serial=20, last_serial=20) == pace
    assert pace.after_complaint(serial=21, last_serial=24).allowed == 4


def test_one_request_is_always_allowed() -> None:
    pace = Pace(allowed=1, most=32).after_complaint(serial=1, last_serial=1)
    assert pace.in_flight == 1


def test_a_pace_may_be_held_to_less() -> None:
    pace = Pace(allowed=4, most=32)
    assert pace.at_most(32) == pace
    assert pace.at_most(8) == Pace(allowed=4, most=8)
    assert pace.at_most(2) == Pace(allowed=2, most=2)


def test_after_a_halving_it_takes_many_answers_to_come_back() -> None:
    pace = Pace(allowed=16, most=32).after_complaint(serial=1, last_serial=1)
    answers = 0
    while pace.in_flight < 16:
        pace = pace.after_answer(pace.in_flight)
        answers += 1
    assert answers > 8 * 8


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
