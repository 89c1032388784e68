"""Requests run in the order of their priority, and none waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from fakes import DOUBLE, TIMEOUT_S, FakeClock, FakeServable
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions, Priority, RunNow, decide, in_turn, rank
from ladle.server.core.errors import Cancelled, Unavailable
from ladle.server.core.observation import Observation

AGING_S = 5.0


class Asked(NamedTuple):
    """A request in a queue."""

    number: int
    priority: Priority
    arrived: float
    rows: int = 1
    is_cut: bool = False
    rows_of_each: int = 0


def queues(asked: list[Asked]) -> list[list[Asked]]:
    """The requests of each priority, in the order in which they came."""
    return [[one for one in asked if one.priority is p] for p in Priority]


def order(asked: list[Asked], now: float) -> list[int]:
    return [one.number for one in in_turn(queues(asked), now, AGING_S)]


def test_the_urgent_come_first_and_of_one_priority_those_who_came_first() -> None:
    asked = [
        Asked(1, Priority.LOW, 0.0),
        Asked(2, Priority.NORMAL, 1.0),
        Asked(3, Priority.HIGH, 2.0),
        Asked(4, Priority.NORMAL, 3.0),
        Asked(5, Priority.HIGH, 4.0),
    ]
    assert order(asked, 4.0) == [3, 5, 2, 4, 1]


@pytest.mark.parametrize(
    ("priority", "waited_s", "counts_as"),
    [
        (Priority.LOW, 0.0, Priority.LOW),
        (Priority.LOW, 4.9, Priority.LOW),
        (Priority.LOW, 5.0, Priority.NORMAL),
        (Priority.LOW, 10.0, Priority.HIGH),
        (Priority.LOW, 1000.0, Priority.HIGH),
        (Priority.NORMAL, 5.0, Priority.HIGH),
        (Priority.HIGH, 5.0, Priority.HIGH),
    ],
)
def test_who_has_waited_long_counts_as_more_urgent(
    priority: Priority, waited_s: float, counts_as: Priority
) -> None:
    assert rank(priority, 100.0, 100.0 + waited_s, AGING_S) == counts_as


def test_low_rows_fill_up_a_batch_and_never_displace_others() -> None:
    asked = [Asked(1, Priority.LOW, 0.0), *(Asked(n, Priority.NORMAL, 1.0) for n in (2, 3))]
    for size, expected in ((2, [2, 3]), (3, [2, 3, 1])):
        run = decide(
            in_turn(queues(asked), 1.0, AGING_S), 0, 1.0, BatchOptions(max_batch_size=size)
        )
        assert isinstance(run, RunNow)
        assert [one.number for one in run.batch] == expected


asked_in_order = st.lists(st.tuples(st.sampled_from(Priority), st.floats(0, 20)), max_size=30).map(
    lambda drawn: [
        Asked(number, priority, arrived)
        for number, (priority, arrived) in enumerate(sorted(drawn, key=lambda d: d[1]))
    ]
)


@given(asked_in_order)
def test_the_order_is_that_of_a_sort_by_what_each_counts_as(asked: list[Asked]) -> None:
    now = 20.0
    expected = sorted(
        asked, key=lambda one: (rank(one.priority, one.arrived, now, AGING_S), one.arrived)
    )
    found = list(in_turn(queues(asked), now, AGING_S))
    keys = [(rank(one.priority, one.arrived, now, AGING_S), one.arrived) for one in found]
    assert keys == [
        (rank(one.priority, one.arrived, now, AGING_S), one.arrived) for one in expected
    ]
    assert sorted(one.number for one in found) == [one.number for one in asked]


@given(st.sampled_from(Priority), st.integers(1, 3))
def test_nobody_starves_however_many_urgent_ones_come(priority: Priority, per_s: int) -> None:
    """As many high ones come as can run; who was there before runs within two agings."""
    waiting = [Asked(0, priority, 0.0)]
    options = BatchOptions(max_batch_size=per_s)
    for second in range(1, 13):
        waiting += [Asked(second * 10 + n, Priority.HIGH, float(second)) for n in range(per_s)]
        run = decide(in_turn(queues(waiting), float(second), AGING_S), 0, float(second), options)
        assert isinstance(run, RunNow)
        waiting = [one for one in waiting if one not in run.batch]
    assert all(one.number for one in waiting)


class Setting:
    """A servable whose runs are held up, and requests of any priority to it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.model = FakeServable()
        options = BatchOptions(max_batch_size=2, max_enqueued_batches=4)
        self.servable = BatchingServable(self.model, options, self.clock, max_threads=1)
        self.answered: list[float] = []

    def ask(self, value: float, priority: Priority = Priority.NORMAL, rows: int = 1) -> Any:
        observation = Observation("Predict", "GRPC", b"")
        observation.priority = priority

        def done(outcome: Any) -> None:
            if not isinstance(outcome, Cancelled):
                self.answered.append(float(outcome["y"][0, 0]) / 2)

        x = np.full((rows, 2), value, np.float32)
        return self.servable.submit(DOUBLE, {"x": x}, ("y",), done, None, observation)

    def run_all(self) -> list[float]:
        """Let all runs end, and return the values in the order of their answers."""
        self.model.release()
        assert self.servable.wait_until_idle(TIMEOUT_S)
        return self.answered


@pytest.fixture
def busy() -> Iterator[Setting]:
    """One run is under way, and goes on until it is let go."""
    setting = Setting()
    setting.model.hold()
    setting.ask(0.0)
    setting.model.wait_until_running()
    yield setting
    setting.model.release()
    setting.servable.close()


def test_what_waits_runs_in_the_order_of_its_priority(busy: Setting) -> None:
    busy.ask(1.0, Priority.LOW)
    busy.ask(2.0)
    busy.ask(3.0, Priority.HIGH)
    busy.ask(4.0)
    assert busy.run_all() == [0.0, 3.0, 2.0, 4.0, 1.0]
    assert busy.model.batches == [1, 2, 2]


def test_urgent_requests_of_another_shape_come_first_too(busy: Setting) -> None:
    """They are in a queue of their own."""
    busy.ask(1.0, Priority.LOW)
    busy.ask(2.0, Priority.LOW)
    busy.servable.submit(
        DOUBLE,
        {"x": np.full((1, 2, 1), 3.0, np.float32)},
        ("y",),
        lambda outcome: busy.answered.append(3.0),
        None,
        _high(),
    )
    assert busy.run_all()[:2] == [0.0, 3.0]


def _high() -> Observation:
    observation = Observation("Predict", "GRPC", b"")
    observation.priority = Priority.HIGH
    return observation


def test_low_requests_leave_half_of_the_queue_to_others(busy: Setting) -> None:
    for value in range(4):
        busy.ask(float(value + 1), Priority.LOW)
    with pytest.raises(Unavailable, match="4 rows wait of at most 4"):
        busy.ask(9.0, Priority.LOW)
    for value in range(4):
        busy.ask(float(value + 5))
    with pytest.raises(Unavailable, match="8 rows wait of at most 8"):
        busy.ask(9.0, Priority.HIGH)
    assert busy.run_all() == [0.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0]


def test_one_that_is_given_up_leaves_the_others_in_their_order(busy: Setting) -> None:
    gone = busy.ask(1.0, Priority.HIGH)
    busy.ask(2.0, Priority.LOW)
    busy.ask(3.0)
    gone.cancel()
    assert busy.run_all() == [0.0, 3.0, 2.0]
