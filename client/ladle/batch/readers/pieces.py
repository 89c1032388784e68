"""Rows that are read one at a time: their columns, and chunks of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ladle.batch.readers.chunks import CHUNK_BYTES, MAX_CHUNK_ROWS
from ladle.batch.rows import FailedRow, Rows, objects

_SAMPLE_ROWS = 100


class BadRow(ValueError):
    """A row can't be read; the text says why."""


class Sample:
    """The first rows of an input, which show its columns."""

    def __init__(self) -> None:
        self._rows = 0
        self._bytes = 0
        self._counts: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether enough rows have been seen."""
        return self._rows >= _SAMPLE_ROWS or self._bytes >= CHUNK_BYTES

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that at least half of the rows have, else all, as they appeared."""
        common = tuple(name for name, count in self._counts.items() if 2 * count >= self._rows)
        return common or tuple(self._counts)

    def add(self, names: Iterable[str], size_bytes: int) -> None:
        """Take the columns of a row."""
        self._rows += 1
        self._bytes += size_bytes
        for name in names:
            self._counts[name] = self._counts.get(name, 0) + 1


class Pieces:
    """Collects single rows into chunks, from row number `start` on; for one thread.

    Call `skip`, `add` or `fail` for each row of the input, in order, and then `full`, which yields
    a chunk when there are enough rows. Call `rest` after the last row.
    """

    def __init__(self, start: int, wanted: Sequence[str]) -> None:
        self._wanted = tuple(wanted)
        self._next = 0
        self._start = start
        self._begin(start)

    @property
    def is_wanted(self) -> bool:
        """Whether the next row is one to be read, at `start` or behind it."""
        return self._next >= self._start

    def skip(self) -> None:
        """Count a row before `start`."""
        self._next += 1

    def add(self, values: Sequence[Any], size_bytes: int) -> None:
        """Add a row: its values in the order of the wanted columns, and its size in the file."""
        self._values.append(values)
        self._numbers.append(self._next)
        self._bytes += size_bytes
        self._next += 1

    def fail(self, reason: str) -> None:
        """Add a row that can't be read."""
        self._failed.append(FailedRow(self._next, "INVALID_ARGUMENT", reason))
        self._next += 1

    def full(self, share: float) -> Iterator[Rows]:
        """Yield a chunk, if there are enough rows; `share` is how much of the input was read."""
        if self._bytes >= CHUNK_BYTES or self._next - self._first >= MAX_CHUNK_ROWS:
            yield from self.rest(share)

    def rest(self, share: float = 1.0) -> Iterator[Rows]:
        """Yield the rows that there are, if any."""
        if self._next <= self._first:
            return
        columns = {
            name: objects([values[index] for values in self._values])
            for index, name in enumerate(self._wanted)
        }
        yield Rows(
            start=self._first,
            stop=self._next,
            numbers=np.array(self._numbers, np.int64),
            columns=columns,
            failed=tuple(self._failed),
            share=share,
        )
        self._begin(self._next)

    def _begin(self, first: int) -> None:
        self._first = first
        self._numbers: list[int] = []
        self._values: list[Sequence[Any]] = []
        self._failed: list[FailedRow] = []
        self._bytes = 0
