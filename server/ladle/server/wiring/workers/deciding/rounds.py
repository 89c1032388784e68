"""Questions to several workers at once: who has answered, and when one is over. No I/O or clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Answers: TypeAlias = "dict[int, Any]"
"""What those who answered said, by their keys."""

MOST = 64
"""So many rounds may be under way at a time."""


@dataclass
class Round:
    """One question."""

    deadline: float
    """When it is over, whoever has not answered."""
    waiting: set[int]
    """Those who have not answered yet."""
    then: Callable[[Answers], None]
    """Called once, with all answers."""
    answers: Answers = field(default_factory=dict)


class Rounds:
    """The questions under way. Each ends once: by the last answer, or at its deadline."""

    def __init__(self) -> None:
        self._rounds: dict[int, Round] = {}
        self._last = 0

    @property
    def is_full(self) -> bool:
        """Whether no further question can be asked now."""
        return len(self._rounds) >= MOST

    def ask(self, keys: Iterable[int], deadline: float, then: Callable[[Answers], None]) -> int:
        """Take note of a question to `keys`, and return its number.

        `then` gets the answers. Where nobody is asked, call `settle`.
        """
        self._last += 1
        self._rounds[self._last] = Round(deadline, set(keys), then)
        return self._last

    def answered(self, number: int, key: int, answer: Any) -> None:
        """Take an answer; one that nobody waits for any more is dropped."""
        asked = self._rounds.get(number)
        if asked is not None and key in asked.waiting:
            asked.waiting.discard(key)
            asked.answers[key] = answer
        self.settle(number)

    def gone(self, key: int) -> None:
        """Wait no longer for one that can't answer any more."""
        for number, asked in list(self._rounds.items()):
            if key in asked.waiting:
                asked.waiting.discard(key)
                self.settle(number)

    def settle(self, number: int) -> None:
        """End a round if nobody is waited for."""
        asked = self._rounds.get(number)
        if asked is not None and not asked.waiting:
            del self._rounds[number]
            asked.then(asked.answers)

    def tick(self, now: float) -> None:
        """End the rounds whose time is over."""
        for number, asked in list(self._rounds.items()):
            if asked.deadline <= now and number in self._rounds:
                del self._rounds[number]
                asked.then(asked.answers)

    def due(self) -> float | None:
        """Return when `tick` has something to do; None if never."""
        return min((asked.deadline for asked in self._rounds.values()), default=None)
