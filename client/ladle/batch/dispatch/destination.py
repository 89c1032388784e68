"""Where a run's answers go."""

from __future__ import annotations

from typing import Protocol

from ladle.batch.rows import Answered


class Destination(Protocol):
    """Takes answers in the order of their rows; for one thread."""

    @property
    def next_row(self) -> int:
        """The number of the row that is written next."""

    @property
    def rows(self) -> int:
        """How many rows are done, those of earlier runs included."""

    @property
    def failed(self) -> int:
        """How many of `rows` have no prediction."""

    @property
    def share(self) -> float:
        """How much of the input is written, from 0 to 1."""

    @property
    def share_before(self) -> float:
        """How much of the input earlier runs had written, from 0 to 1."""

    def write(self, answered: Answered) -> None:
        """Write the rows that follow the last ones.

        Raises:
            BatchError: The rows can't be written, or the format has no place for them.
        """

    def finish(self) -> object:
        """Put what is still open in its place; every row has been written.

        Raises:
            BatchError: It can't be written.
        """

    def discard(self) -> None:
        """Remove what is not finished, where there is something."""
