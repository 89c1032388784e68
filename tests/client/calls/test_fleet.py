"""Which of several servers a call goes to."""

from __future__ import annotations

from collections.abc import Set

import grpc
import pytest

from ladle.client.calls.fleet import Fleet, choose
from ladle.client.calls.retry import Retry

Code = grpc.StatusCode


@pytest.mark.parametrize(
    ("turn", "resting_until", "tried", "expected"),
    [
        (0, [0, 0, 0], set(), 0),
        (1, [0, 0, 0], set(), 1),
        (5, [0, 0, 0], set(), 2),
        (0, [0, 0, 0], {0}, 1),  # not where it has failed already
        (0, [11, 0, 0], set(), 1),  # not where others fail
        (0, [9, 0, 0], set(), 0),  # rested enough: it is 10 o'clock
        (0, [13, 12, 11], set(), 2),  # all rest: the one that is nearest to its end
        (0, [13, 0, 0], {1, 2}, 0),  # rather one that rests than one that has failed this call
        (1, [0, 0, 0], {0, 1, 2}, 1),  # all have failed: in turn again
        (7, [0], {0}, 0),
    ],
)
def test_choice(turn: int, resting_until: list[float], tried: Set[int], expected: int) -> None:
    assert choose(turn, resting_until, tried, now=10.0) == expected


def fleet(count: int = 3) -> Fleet:
    return Fleet([f"server-{index}" for index in range(count)], retry=Retry())


def test_calls_go_to_all_in_turn() -> None:
    servers = fleet()
    assert [servers.pick(set(), 0.0) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_an_address_that_fails_is_passed_over_longer_each_time() -> None:
    servers = fleet(2)
    servers.failed(0, Code.UNAVAILABLE, now=0.0)
    assert {servers.pick(set(), 0.09) for _ in range(4)} == {1}
    assert {servers.pick(set(), 0.11) for _ in range(4)} == {0, 1}
    servers.failed(0, Code.UNAVAILABLE, now=1.0)
    assert {servers.pick(set(), 1.19) for _ in range(4)} == {1}
    for _ in range(100):
        servers.failed(0, Code.UNAVAILABLE, now=2.0)
    assert {servers.pick(set(), 6.9) for _ in range(4)} == {1}
    assert {servers.pick(set(), 7.1) for _ in range(4)} == {0, 1}


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.INTERNAL])
def test_an_error_of_the_models_is_an_answer_of_the_servers(code: grpc.StatusCode) -> None:
    servers = fleet(2)
    servers.failed(0, Code.UNAVAILABLE, now=0.0)
    servers.failed(0, code, now=0.0)
    assert {servers.pick(set(), 0.0) for _ in range(4)} == {0, 1}


def test_a_success_ends_the_rest() -> None:
    servers = fleet(2)
    servers.failed(0, Code.UNAVAILABLE, now=0.0)
    servers.succeeded(0)
    assert {servers.pick(set(), 0.0) for _ in range(4)} == {0, 1}
