"""A version answers once it is loaded everywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ladle.server.wiring.workers.deciding.barrier import Barrier

ONE = ("m", 1)


def test_all_are_released_by_the_last_and_once() -> None:
    barrier = Barrier()
    barrier.loaded(1, ONE)
    assert barrier.released([1, 2]) == []
    barrier.loaded(2, ONE)
    assert barrier.released([1, 2]) == [(1, ONE), (2, ONE)]
    assert barrier.released([1, 2]) == []


def test_one_that_fails_holds_up_nobody() -> None:
    barrier = Barrier()
    barrier.loaded(1, ONE)
    barrier.failed(2, ONE)
    assert barrier.released([1, 2]) == [(1, ONE)]


def test_one_that_ends_holds_up_nobody() -> None:
    barrier = Barrier()
    barrier.loaded(1, ONE)
    barrier.gone(2)
    assert barrier.released([1]) == [(1, ONE)]


def test_one_that_comes_later_finds_the_others_there() -> None:
    barrier = Barrier()
    barrier.loaded(1, ONE)
    barrier.released([1])
    barrier.loaded(2, ONE)
    assert barrier.released([1]) == [(2, ONE)]


def test_a_version_goes_once_nobody_serves_it_as_if_it_stayed() -> None:
    barrier = Barrier()
    for key in (1, 2):
        barrier.loaded(key, ONE)
    barrier.released([1, 2])
    barrier.leaving(1, ONE)
    assert barrier.released([1, 2]) == []
    barrier.leaving(2, ONE)
    assert barrier.released([1, 2]) == [(1, ONE), (2, ONE)]


def test_a_version_that_the_others_failed_to_load_goes_at_once() -> None:
    barrier = Barrier()
    barrier.loaded(1, ONE)
    barrier.failed(2, ONE)
    barrier.released([1, 2])
    barrier.leaving(1, ONE)
    assert barrier.released([1, 2]) == [(1, ONE)]


def test_a_version_that_was_unloaded_is_waited_for_again() -> None:
    barrier = Barrier()
    for key in (1, 2):
        barrier.loaded(key, ONE)
    barrier.released([1, 2])
    for key in (1, 2):
        barrier.leaving(key, ONE)
    barrier.loaded(1, ONE)
    assert barrier.released([1, 2]) == []


@given(st.permutations([(key, version) for key in (1, 2, 3) for version in (1, 2)]))
def test_in_any_order_nobody_is_released_early_and_all_are_in_the_end(
    arrivals: list[tuple[int, int]],
) -> None:
    barrier = Barrier()
    there: set[tuple[int, int]] = set()
    released = []
    for key, version in arrivals:
        barrier.loaded(key, ("m", version))
        there.add((key, version))
        for who, (_, which) in barrier.released([1, 2, 3]):
            assert {(k, which) for k in (1, 2, 3)} <= there
            released.append((who, which))
    assert sorted(released) == sorted(arrivals)
