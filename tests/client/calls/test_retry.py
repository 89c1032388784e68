"""Whether a call is made again: the decision, and the budget."""

from __future__ import annotations

import grpc
import pytest

from ladle.client.calls.retry import Budget, Hedge, Retry, should_retry

Code = grpc.StatusCode
POLICY = Retry(max_attempts=4, initial_backoff_s=0.1)


def decide(
    code: grpc.StatusCode = Code.UNAVAILABLE,
    attempt: int = 1,
    *,
    policy: Retry = POLICY,
    remaining_s: float = 30.0,
    pushback: str | None = None,
    is_elsewhere: bool = False,
    jitter: float = 1.0,
) -> float | None:
    return should_retry(
        code,
        attempt,
        policy=policy,
        remaining_s=remaining_s,
        pushback=pushback,
        is_elsewhere=is_elsewhere,
        jitter=jitter,
    )


def test_what_no_server_took_is_tried_again() -> None:
    tried_again = {code for code in Code if decide(code, pushback="0") is not None}
    assert tried_again == {Code.UNAVAILABLE, Code.CANCELLED}


def test_the_wait_doubles_up_to_five_seconds() -> None:
    policy = Retry(max_attempts=100)
    waits = [decide(attempt=attempt, policy=policy) for attempt in (1, 2, 3, 4, 7, 99)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 5.0, 5.0])


def test_jitter_takes_up_to_half_of_the_wait() -> None:
    assert decide(jitter=0.0) == pytest.approx(0.05)
    assert decide(jitter=0.5) == pytest.approx(0.075)


def test_an_address_that_was_not_tried_is_tried_at_once() -> None:
    assert decide(is_elsewhere=True, attempt=3) == 0.0


def test_the_last_attempt_is_the_last() -> None:
    assert decide(attempt=3) is not None
    assert decide(attempt=4) is None
    assert decide(attempt=4, pushback="0") is None
    assert decide(policy=Retry(max_attempts=1)) is None


@pytest.mark.parametrize(
    ("pushback", "wait_s"),
    [
        ("0", 0.0),
        ("250", 0.25),
        *((pushback, None) for pushback in ("-1", "", "soon", "1.5", "9" * 400, "9" * 5_000)),
    ],
    ids=lambda value: str(value)[:10],
)
def test_the_server_says_when_to_come_back(pushback: str, wait_s: float | None) -> None:
    assert decide(pushback=pushback, is_elsewhere=True) == wait_s


def test_nothing_is_tried_past_the_deadline() -> None:
    assert decide(remaining_s=0.11) is not None
    assert decide(remaining_s=0.1) is None
    assert decide(remaining_s=0.2, pushback="250") is None
    assert decide(remaining_s=0.0, is_elsewhere=True) is None


class TestBudget:
    def test_it_runs_out(self) -> None:
        budget = Budget(share=0.5, tokens=3)
        assert [budget.take() for _ in range(4)] == [True, True, True, False]

    def test_calls_earn_a_share(self) -> None:
        budget = Budget(share=0.5, tokens=1)
        assert budget.take()
        budget.earn()
        assert not budget.take()
        budget.earn()
        assert budget.take()

    def test_it_holds_no_more_than_it_began_with(self) -> None:
        budget = Budget(share=1.0, tokens=2)
        for _ in range(10):
            budget.earn()
        assert [budget.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(max_attempts=0), "max_attempts: expected 1 or more, got 0"),
        (lambda: Retry(initial_backoff_s=0), "initial_backoff_s: expected more than 0"),
        (lambda: Retry(initial_backoff_s=6), "at most 5.0, got 6"),
        (lambda: Hedge(after_s=0), "after_s: expected more than 0, got 0"),
        (lambda: Hedge(after_s=1, max_share=1.5), "max_share: expected more than 0 and at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
