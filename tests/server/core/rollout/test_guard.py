from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ladle.rollout.guard import Figures, Guard, breach

GUARD = Guard(min_requests=100, max_error_ratio=0.01, max_p99_to_stable=1.5)
GOOD = Figures(1000, 0, 0.010)


def test_what_is_as_good_as_stable_goes_on() -> None:
    assert breach(GUARD, GOOD, GOOD) == ""
    assert breach(GUARD, Figures(1000, 10, 0.015), GOOD) == ""


def test_too_few_requests_are_no_verdict() -> None:
    assert breach(GUARD, Figures(99, 99, 10.0), GOOD) == ""
    assert breach(GUARD, Figures(1000, 0, 10.0), Figures(99, 0, 0.001)) == ""


def test_failures_hold() -> None:
    assert breach(GUARD, Figures(1000, 11, 0.010), GOOD) == (
        "11 of 1000 requests failed: 1.10%, expected at most 1.00%"
    )


def test_requests_that_are_wrong_in_themselves_hold_nobody() -> None:
    assert breach(GUARD, Figures(1000, 80, 0.010), Figures(1000, 50, 0.010)) == ""
    assert breach(GUARD, Figures(1000, 120, 0.010), Figures(1000, 50, 0.010)) != ""


def test_slow_answers_hold_if_they_are_compared() -> None:
    slow = Figures(1000, 0, 0.016)
    assert "16 ms, 1.60 times stable's: expected at most 1.5 times" in breach(GUARD, slow, GOOD)
    assert breach(Guard(), slow, GOOD) == ""
    assert breach(GUARD, Figures(1000, 0, None), GOOD) == ""


def test_answers_that_differ_hold_if_they_are_compared() -> None:
    strict = Guard(min_requests=100, max_disagreement=0.02)
    other = Figures(0, 0, None, compared=100, disagreement=0.0201)
    assert breach(strict, other, GOOD) == (
        "2.01% of the rows of 100 requests came out otherwise than from stable, "
        "expected at most 2.00%"
    )
    assert breach(strict, other._replace(compared=99), GOOD) == ""
    assert breach(strict, other._replace(disagreement=0.02), GOOD) == ""
    assert breach(Guard(), other, GOOD) == ""


@given(st.integers(100, 10_000), st.data())
def test_a_canary_that_never_fails_and_is_no_slower_is_never_held(
    requests: int, data: st.DataObject
) -> None:
    stable = Figures(requests, data.draw(st.integers(0, requests)), 0.01)
    assert breach(GUARD, Figures(requests, 0, 0.01), stable) == ""
