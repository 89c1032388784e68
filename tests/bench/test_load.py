"""Loads by a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from ladle.bench.load import Measured, at_concurrency, at_rate
from ladle.client import Overloaded, Unavailable


class Clock:
    """Time passes only while somebody sleeps, and while a call runs."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)


def test_each_of_those_in_flight_is_made_when_one_has_ended() -> None:
    clock, in_flight, most = Clock(), 0, 0

    async def call() -> int:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        clock.now_s += 0.25
        in_flight -= 1
        return 2

    measured = asyncio.run(at_concurrency(call, 4, 10.0, clock.now))
    assert most == 4
    assert measured.requests == measured.latencies.count
    assert measured.rows == 2 * measured.requests
    assert measured.seconds == clock.now_s >= 10.0


def test_at_a_rate_requests_are_made_whatever_the_answers_do() -> None:
    clock, made = Clock(), list[float]()
    stalled = asyncio.Event()

    async def call() -> int:
        made.append(clock.now_s)
        if len(made) == 20:
            clock.now_s = 100.0
            stalled.set()
        await stalled.wait()
        return 1

    measured = asyncio.run(at_rate(call, 10.0, 2.0, clock.now, clock.sleep))
    assert measured.requests == 20
    assert made == sorted(made)
    assert max(made) <= 2.0
    # The first was due at 0 and answered at 100, and so on: nobody's wait is left out.
    assert measured.latencies.max_s == pytest.approx(100.0)
    assert measured.latencies.percentile(0.5) == pytest.approx(99.1, rel=0.01)
    assert measured.unsent == 0


def test_what_could_not_be_made_in_time_is_told() -> None:
    clock = Clock()

    async def call() -> int:
        clock.now_s += 1.0  # this process is too slow
        return 1

    measured = asyncio.run(at_rate(call, 10.0, 5.0, clock.now, clock.sleep))
    assert measured.requests + measured.unsent == 50
    assert measured.unsent >= 40


def test_failures_are_counted_by_status_beside_the_latencies() -> None:
    clock = Clock()
    outcomes = iter([None, Unavailable("gone"), Overloaded("full"), Unavailable("away")])

    async def call() -> int:
        clock.now_s += 1.0
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return 1

    measured: Measured = asyncio.run(at_concurrency(call, 1, 4.0, clock.now))
    assert measured.errors == {"UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1}
    assert measured.first_errors["UNAVAILABLE"] == "gone"
    assert (measured.requests, measured.latencies.count, measured.rows) == (4, 1, 1)
