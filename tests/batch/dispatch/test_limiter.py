from __future__ import annotations

from ladle.batch.dispatch.limiter import ConcurrencyLimiter


def test_a_round_of_answers_allows_one_request_more() -> None:
    limiter = ConcurrencyLimiter(allowed=4, most=32)
    for _ in range(4):
        limiter = limiter.after_answer(limiter.limit)
    assert 4.8 < limiter.allowed <= 5
    assert limiter.after_answer(limiter.limit).limit == 5


def test_a_limit_that_holds_nothing_back_does_not_grow() -> None:
    limiter = ConcurrencyLimiter(allowed=4, most=32)
    assert limiter.after_answer(3) == limiter


def test_a_limit_never_passes_its_most() -> None:
    assert ConcurrencyLimiter(allowed=8, most=8).after_answer(8).allowed == 8


def test_an_overload_halves_the_limit_once_for_all_that_was_sent_before() -> None:
    limiter = ConcurrencyLimiter(allowed=16, most=32).after_overload(serial=5, last_serial=20)
    assert limiter.allowed == 8
    assert limiter.after_overload(serial=20, last_serial=20) == limiter
    assert limiter.after_overload(serial=21, last_serial=24).allowed == 4


def test_one_request_is_always_allowed() -> None:
    limiter = ConcurrencyLimiter(allowed=1, most=32).after_overload(serial=1, last_serial=1)
    assert limiter.limit == 1


def test_a_limit_may_be_lowered_for_good() -> None:
    limiter = ConcurrencyLimiter(allowed=4, most=32)
    assert limiter.at_most(32) == limiter
    assert limiter.at_most(8) == ConcurrencyLimiter(allowed=4, most=8)
    assert limiter.at_most(2) == ConcurrencyLimiter(allowed=2, most=2)


def test_after_a_halving_it_takes_many_answers_to_come_back() -> None:
    limiter = ConcurrencyLimiter(allowed=16, most=32).after_overload(serial=1, last_serial=1)
    answers = 0
    while limiter.limit < 16:
        limiter = limiter.after_answer(limiter.limit)
        answers += 1
    assert answers > 8 * 8
