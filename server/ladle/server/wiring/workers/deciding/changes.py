"""Changes of what is served, in two phases: all workers check, and if all agree, all apply.

One change is under way at a time. No I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ladle.server.core.errors import Code

Error: TypeAlias = "dict[str, Any]"
"""`code`, a number, and `message`."""

MOST_WAITING = 16
"""Changes that may wait for their turn."""


@dataclass(frozen=True)
class Change:
    """One that a worker was asked for."""

    key: int
    """The worker."""
    number: int
    """The worker's own number of the request."""
    body: Mapping[str, Any]
    """What to change."""


class Turns:
    """Which change is under way, and which wait."""

    def __init__(self, begin: Callable[[Change], None]) -> None:
        """Take what begins a change; at its end call `finished`."""
        self._begin = begin
        self._waiting: deque[Change] = deque()
        self._current: Change | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a change is under way."""
        return self._current is not None

    def add(self, change: Change) -> bool:
        """Begin a change now or later; False if too many wait."""
        if self._current is None:
            self._current = change
            self._begin(change)
            return True
        if len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append(change)
        return True

    def finished(self) -> None:
        """Go on with the next change."""
        self._current = self._waiting.popleft() if self._waiting else None
        if self._current is not None:
            self._begin(self._current)


def first_error(
    asked: Mapping[int, int], answers: Mapping[int, Mapping[str, Any]], *, what: str
) -> Error | None:
    """Return the error of the first worker that has one; None if all agree.

    The message names the worker, unless all have the same error.

    Args:
        asked: the workers that were asked, and their numbers.
        answers: what those said that answered: each has an `error`, or None there.
        what: what one that did not answer did not do.
    """
    errors = [answer.get("error") for answer in answers.values()]
    is_common = len(answers) == len(asked) and all(error == errors[0] for error in errors)
    for key, number in sorted(asked.items(), key=lambda item: item[1]):
        answer = answers.get(key)
        if answer is None:
            message = f"worker {number} did not answer in time, or ended, and did not {what}"
            return {"code": Code.UNAVAILABLE.value, "message": message}
        error = answer.get("error")
        if error is not None:
            message = error["message"] if is_common else f"worker {number}: {error['message']}"
            return {"code": error["code"], "message": message}
    return None


def strays(
    asked: Mapping[int, int], answers: Mapping[int, Mapping[str, Any]]
) -> tuple[list[int], Any]:
    """Return the workers that have not applied a change which others have, and what those serve.

    No worker is a stray where none has applied it.
    """
    applied = {key: a for key, a in answers.items() if a.get("error") is None}
    if not applied:
        return [], None
    serves = applied[min(applied, key=lambda key: asked[key])]["body"]
    return [key for key in asked if key not in applied], serves
