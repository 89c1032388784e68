"""Short slices of Python's lock are in force while somebody asks for them, and no longer."""

from __future__ import annotations

import pytest

from ladle.server.core.machine.slices import SHORT_S, ShortSlices


class Interpreter:
    """Has the time that Python has, and what was set in order."""

    def __init__(self, usual_s: float) -> None:
        self.set_s = [usual_s]

    def slices(self) -> ShortSlices:
        return ShortSlices(lambda: self.set_s[-1], self.set_s.append)


def test_slices_are_short_meanwhile_and_then_what_they_were() -> None:
    python = Interpreter(0.005)

    with python.slices().held():
        assert python.set_s[-1] == SHORT_S

    assert python.set_s == [0.005, SHORT_S, 0.005]


def test_the_last_of_several_to_end_puts_the_time_back() -> None:
    python = Interpreter(0.005)
    slices = python.slices()
    first, second = slices.held(), slices.held()

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert python.set_s[-1] == SHORT_S
    second.__exit__(None, None, None)

    assert python.set_s[-1] == 0.005


def test_a_load_that_fails_puts_the_time_back() -> None:
    python = Interpreter(0.005)

    @python.slices().held()
    def load() -> None:
        raise ValueError("no model")

    for _ in range(2):
        with pytest.raises(ValueError, match="no model"):
            load()

    assert python.set_s == [0.005, SHORT_S, 0.005, SHORT_S, 0.005]


def test_slices_that_are_shorter_already_stay_so() -> None:
    python = Interpreter(SHORT_S / 2)

    with python.slices().held():
        assert python.set_s[-1] == SHORT_S / 2
