"""Which processes are started, drained and killed: without any process, by a clock of numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ladle.server.wiring.workers.deciding.fleet import (
    Action,
    Drain,
    End,
    Fleet,
    Kill,
    Say,
    Stage,
    Start,
)
from ladle.server.wiring.workers.deciding.restarts import deaths_in_a_row, wait_s

CRASH = "was ended by SIGSEGV"


def started(actions: Iterable[Action]) -> list[tuple[int, int]]:
    return [(action.key, action.number) for action in actions if isinstance(action, Start)]


def of(kind: type[Any], actions: Iterable[Action]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def serving(count: int = 2, now: float = 0.0) -> Fleet:
    fleet = Fleet(count, grace_s=30)
    for key, _ in started(fleet.begin()):
        fleet.opened(key)
        fleet.up(key, now)
    return fleet


def test_all_start_at_once_and_open_as_soon_as_they_can() -> None:
    assert Fleet(3, 30).begin() == [Start(1, 1, False), Start(2, 2, False), Start(3, 3, False)]


def test_the_waits_grow_and_have_a_bound() -> None:
    assert [wait_s(deaths) for deaths in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert wait_s(10**9) == 30


def test_a_worker_that_served_for_a_minute_starts_the_waits_anew() -> None:
    assert deaths_in_a_row(4, served_s=60) == 1
    assert deaths_in_a_row(4, served_s=59) == 5
    assert deaths_in_a_row(4, served_s=None) == 5


def test_one_that_dies_is_started_again_and_opens_once_its_models_are_there() -> None:
    fleet = serving()
    said = fleet.ended(1, CRASH, now=5.0)
    assert said == [Say("worker 1 was ended by SIGSEGV; another starts in 1 s", is_problem=True)]
    assert fleet.due() == 6.0
    assert fleet.tick(5.9) == []
    assert fleet.tick(6.0) == [Start(3, 1, late=True)]
    assert fleet.due() is None


def test_where_none_is_left_the_next_opens_at_once() -> None:
    fleet = serving(2)
    fleet.ended(1, CRASH, now=5.0)
    fleet.ended(2, CRASH, now=5.0)
    assert of(Start, fleet.tick(6.0)) == [Start(3, 1, False), Start(4, 2, False)]


def test_three_that_never_served_end_it_all_if_no_other_serves() -> None:
    fleet = Fleet(2, 30)
    fleet.begin()
    fleet.ended(1, CRASH, now=0.0)
    fleet.ended(2, CRASH, now=0.0)
    (key, _), _ = started(fleet.tick(1.0))
    *kills, end = fleet.ended(key, CRASH, now=1.5)
    assert kills == [Kill(4)]
    assert end == End(
        1, "3 workers in a row ended before they served: worker 1 was ended by SIGSEGV"
    )
    assert fleet.tick(100.0) == []
    assert fleet.due() is None


def test_who_serves_goes_on_whatever_becomes_of_the_others() -> None:
    fleet = serving(2)
    now = 1.0
    key = 1
    for _ in range(20):
        assert of(End, fleet.ended(key, CRASH, now)) == []
        due = fleet.due()
        assert due is not None
        assert due - now <= 30
        now = due
        ((key, _),) = started(fleet.tick(now))


def test_a_start_that_can_not_succeed_ends_it_all_with_its_reason() -> None:
    fleet = Fleet(2, 30)
    fleet.begin()
    assert fleet.refused(2, "no such folder") == [Kill(1), Kill(2), End(1, "no such folder")]
    assert fleet.refused(1, "no such folder") == []
    assert fleet.ended(1, "ended with status 1", now=1.0) == []


def test_a_reason_that_comes_later_is_said_and_ends_nothing() -> None:
    fleet = serving(2)
    fleet.ended(1, CRASH, now=0.0)
    ((key, _),) = started(fleet.tick(1.0))
    assert fleet.refused(key, "no such folder") == []
    (said,) = of(Say, fleet.ended(key, "ended with status 1", now=2.0))
    assert said.text.startswith("worker 1 ended with status 1: no such folder; another starts in")


def test_a_stop_drains_all_at_once_and_ends_with_the_last() -> None:
    fleet = serving(2)
    assert fleet.stop(10.0, lame_duck=True) == [Drain(1, True), Drain(2, True)]
    assert fleet.stop(10.0, lame_duck=True) == []
    assert fleet.ended(1, "ended with status 0", 11.0) == []
    assert fleet.ended(2, "ended with status 0", 12.0) == [End(0)]


def test_a_stop_starts_nobody_again() -> None:
    fleet = serving(2)
    fleet.ended(1, CRASH, 1.0)
    assert fleet.stop(1.5, lame_duck=True) == [Drain(2, True)]
    assert started(fleet.tick(100.0)) == []


def test_a_stop_while_none_is_there_ends_at_once() -> None:
    fleet = serving(1)
    fleet.ended(1, CRASH, 1.0)
    assert fleet.stop(1.5, lame_duck=True) == [End(0)]


def test_one_that_does_not_end_in_time_is_killed_and_the_status_says_so() -> None:
    fleet = serving(1)
    fleet.stop(0.0, lame_duck=True)
    due = fleet.due()
    assert due is not None
    assert due >= 30
    assert of(Kill, fleet.tick(due)) == [Kill(1)]
    assert fleet.ended(1, "was ended by SIGKILL", due) == [End(1)]


def test_all_are_replaced_one_after_the_other_each_by_one_that_serves() -> None:
    fleet = serving(2)
    assert of(Start, fleet.replace_all()) == [Start(3, 1, late=True)]
    fleet.opened(3)
    assert fleet.up(3, 5.0) == [Drain(1, True)]
    assert fleet.ended(1, "ended with status 0", 6.0) == [Start(4, 2, late=True)]
    assert fleet.up(4, 8.0) == [Drain(2, True)]
    assert fleet.ended(2, "ended with status 0", 9.0) == []
    assert fleet.serving() == [3, 4]


def test_where_the_new_one_fails_the_old_ones_go_on() -> None:
    fleet = serving(2)
    fleet.replace_all()
    (said,) = of(Say, fleet.ended(3, "ended with status 1", 5.0))
    assert "the restart ends here" in said.text
    assert fleet.serving() == [1, 2]
    assert fleet.due() is None


def test_where_the_new_one_is_worse_the_old_ones_go_on_and_it_leaves() -> None:
    fleet = serving(2)
    fleet.replace_all()
    fleet.opened(3)
    assert fleet.replaced(3) == 1
    said, drained = fleet.unfit(3, "could not load m", 5.0)
    assert isinstance(said, Say)
    assert "worker 1 could not load m: the restart ends here" in said.text
    assert drained == Drain(3, False)
    assert fleet.ended(3, "ended with status 0", 6.0) == []
    assert fleet.serving() == [1, 2]
    assert fleet.due() is None
    assert fleet.replaced(1) is None


def test_an_old_one_that_dies_while_its_successor_starts_is_not_started_again() -> None:
    fleet = serving(2)
    fleet.replace_all()
    assert started(fleet.ended(1, CRASH, 1.0)) == []
    assert fleet.due() is None
    assert fleet.up(3, 2.0) == [Start(4, 2, late=True)]


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_in_the_middle_of_a_replacement_drains_old_and_new(number: int) -> None:
    fleet = serving(2)
    fleet.replace_all()
    actions = fleet.stop(1.0, lame_duck=False)
    assert {action.key for action in of(Drain, actions)} == {1, 2, 3}


class Operation(RuleBasedStateMachine):
    """Whatever happens, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.fleet = Fleet(3, grace_s=30)
        self.alive: set[int] = set()
        self.drained: set[int] = set()
        self.seen: set[int] = set()
        self.stopping = False
        self.end: End | None = None
        self.take(self.fleet.begin())

    def take(self, actions: Iterable[Action]) -> None:
        for action in actions:
            assert self.end is None, "nothing comes after the end"
            match action:
                case Start(key, number, _):
                    assert not self.stopping
                    assert 1 <= number <= 3
                    assert key not in self.seen
                    self.seen.add(key)
                    self.alive.add(key)
                case Drain(key, _):
                    assert key in self.alive
                    assert key not in self.drained
                    self.drained.add(key)
                case Kill(key):
                    assert key in self.alive
                case End():
                    self.end = action

    def one(self, index: int) -> int | None:
        return sorted(self.alive)[index % len(self.alive)] if self.alive else None

    @rule(index=st.integers(0, 9))
    def opens(self, index: int) -> None:
        if (key := self.one(index)) is not None:
            self.take(self.fleet.opened(key))

    @rule(index=st.integers(0, 9))
    def comes_up(self, index: int) -> None:
        if (key := self.one(index)) is not None and self.end is None:
            self.take(self.fleet.up(key, self.now))

    @rule(index=st.integers(0, 9))
    def dies(self, index: int) -> None:
        if (key := self.one(index)) is not None:
            self.alive.discard(key)
            self.take(self.fleet.ended(key, CRASH, self.now))

    @rule(index=st.integers(0, 9))
    def refuses(self, index: int) -> None:
        if (key := self.one(index)) is not None:
            self.take(self.fleet.refused(key, "no"))

    @rule()
    def is_replaced(self) -> None:
        self.take(self.fleet.replace_all())

    @rule(lame_duck=st.booleans())
    def stops(self, lame_duck: bool) -> None:
        was_ended = self.end is not None
        actions = self.fleet.stop(self.now, lame_duck=lame_duck)
        self.stopping = True
        self.take(actions)
        assert was_ended or self.alive <= self.drained

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 31.0, 50.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.fleet.tick(self.now))

    @invariant()
    def every_worker_has_a_process_or_a_time_to_start(self) -> None:
        stages = self.fleet.stages()
        numbers = [self.fleet.number(key) for key in stages]
        for number in (1, 2, 3):
            assert numbers.count(number) <= 2
        leaving = [key for key, stage in stages.items() if stage is Stage.LEAVING]
        if not self.stopping and self.end is None:
            assert len(leaving) <= 1
            assert len(stages) <= 4
            assert set(numbers) == {1, 2, 3} or self.fleet.due() is not None


TestOperation = Operation.TestCase
TestOperation.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
