"""Questions to several workers, by a clock of numbers."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from ladle.server.wiring.workers.deciding.rounds import MOST, Answers, Rounds


def test_a_round_ends_with_the_last_answer() -> None:
    ended: list[Answers] = []
    rounds = Rounds()
    number = rounds.ask([1, 2], 5.0, ended.append)
    rounds.answered(number, 2, "b")
    assert ended == []
    assert rounds.due() == 5.0
    rounds.answered(number, 1, "a")
    assert ended == [{2: "b", 1: "a"}]
    assert rounds.due() is None


def test_at_its_deadline_it_ends_with_those_that_there_are() -> None:
    ended: list[Answers] = []
    rounds = Rounds()
    number = rounds.ask([1, 2], 5.0, ended.append)
    rounds.answered(number, 2, "b")
    rounds.tick(4.9)
    assert ended == []
    rounds.tick(5.0)
    rounds.answered(number, 1, "late")
    assert ended == [{2: "b"}]


def test_who_has_ended_is_not_waited_for() -> None:
    ended: list[Answers] = []
    rounds = Rounds()
    number = rounds.ask([1, 2], 5.0, ended.append)
    rounds.answered(number, 1, "a")
    rounds.gone(2)
    assert ended == [{1: "a"}]


def test_there_is_a_bound() -> None:
    rounds = Rounds()
    for _ in range(MOST):
        assert not rounds.is_full
        rounds.ask([1], 5.0, lambda _: None)
    assert rounds.is_full


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "answer", "gone", "tick"]), st.integers(0, 4)),
        max_size=40,
    )
)
def test_each_round_ends_once_whatever_happens(events: list[tuple[str, int]]) -> None:
    rounds = Rounds()
    ends: dict[int, int] = {}
    asked = 0

    def count(number: int, _: Answers) -> None:
        ends[number] = ends.get(number, 0) + 1

    for kind, index in events:
        if kind == "ask":
            asked += 1
            number = asked
            rounds.ask(range(index), float(asked), partial(count, number))
            rounds.settle(number)
        elif kind == "answer":
            rounds.answered(max(1, asked - index), index, "x")
        elif kind == "gone":
            rounds.gone(index)
        else:
            rounds.tick(float(asked - index))
    rounds.tick(1e9)
    assert ends == dict.fromkeys(range(1, asked + 1), 1)
