"""How far a stream is read ahead, and how much of it begins together: for batches to form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ReadAheadWindow:
    """How far a stream is read ahead of its answers."""

    requests: int = 64
    nbytes: int = 4 << 20
    """Of the requests; the last one may go beyond."""

    def has_room(self, requests: int, nbytes: int) -> bool:
        """Whether one more may be read beside so many."""
        return requests < self.requests and nbytes < self.nbytes


class Accumulator(Generic[T]):
    """What was read and has not begun.

    Half a window is enough to begin: while it runs, the other half is read.
    """

    def __init__(self, window: ReadAheadWindow) -> None:
        self._window = window
        self._items: list[T] = []
        self._nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: T, nbytes: int) -> bool:
        """Hold one more, and return whether that is enough."""
        self._items.append(item)
        self._nbytes += nbytes
        return not self._window.has_room(2 * len(self._items), 2 * self._nbytes)

    def take(self) -> tuple[list[T], int]:
        """Return all that is held, and how many bytes it is, and hold nothing any more."""
        taken = self._items, self._nbytes
        self._items, self._nbytes = [], 0
        return taken
