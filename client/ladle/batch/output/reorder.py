"""Answers that wait for the answers to earlier rows."""

from __future__ import annotations

from ladle.batch.rows import Answered

# How many bytes may wait until no further request is sent.
MAX_WAITING_BYTES = 64 << 20


class ReorderBuffer:
    """Takes answers in any order, and gives them in the order of their rows; for one thread."""

    def __init__(self, start: int) -> None:
        """Row number `start` is the first to come out."""
        self._next_row = start
        self._waiting: dict[int, Answered] = {}  # by first row
        self._waiting_bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_next(self) -> bool:
        """Whether the answer to the next row is there."""
        return self._next_row in self._waiting

    @property
    def is_full(self) -> bool:
        """Whether the answers that wait have more than MAX_WAITING_BYTES."""
        return self._waiting_bytes > MAX_WAITING_BYTES

    def add(self, answered: Answered) -> None:
        """Take the answer to some rows."""
        self._waiting[answered.start] = answered
        self._waiting_bytes += answered.nbytes

    def pop(self) -> Answered:
        """Return the answer to the next rows, which is there."""
        answered = self._waiting.pop(self._next_row)
        self._waiting_bytes -= answered.nbytes
        self._next_row = answered.stop
        return answered
