"""One prediction in parts of its rows: as the server sends them, or asked for one by one.

Decisions without I/O.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from ladle.client import responses
from ladle.client.coalescing import mould, rows_of
from ladle.client.errors import InvalidAnswer, MessageTooLarge, Unavailable
from ladle.client.flows import Wanted
from ladle.client.models import ModelMetadata
from ladle.client.prediction import Prediction, size_of
from ladle.client.requests import Servable
from ladle.client.responses import Predicted

FIRST_ROWS = 64
"""How many rows are asked for first, where nothing is known of the size of an answer."""
PART_BYTES = 4_000_000
"""About how much a part of an answer takes."""

Parts = Generator[Wanted, "Prediction | MessageTooLarge", None]


class Chunks:
    """Reads the messages of one PredictInChunks call, in the order in which they came."""

    def __init__(self, asked: Servable) -> None:
        self.what = f"PredictInChunks of {asked}"
        self._asked = asked
        self._rows = 0
        self._total: int | None = None

    def start(self, message: bytes, asked: Servable) -> Predicted:
        """Return what the first message of a call holds, the last call where there are several.

        Raises:
            InvalidAnswer: As `read`.
        """
        self._rows, self._total = 0, None
        return self.read(message)

    def read(self, message: bytes) -> Predicted:
        """Return what a message holds.

        Raises:
            InvalidAnswer: It is no PredictChunk, or not the one that comes next.
        """
        chunk = responses.chunk(message, self._asked)
        total = chunk.total_rows if self._total is None else self._total
        if (chunk.first_row, chunk.total_rows) != (self._rows, total):
            raise InvalidAnswer(
                f"{self.what}: expected rows from {self._rows} of {total}, "
                f"got rows from {chunk.first_row} of {chunk.total_rows}"
            )
        if total:
            rows = {len(array) if array.ndim else 0 for array in chunk.predicted.outputs.values()}
            if len(rows) != 1 or not 0 < max(rows) <= total - self._rows:
                raise InvalidAnswer(
                    f"{self.what}: expected each output to have as many rows, 1 to "
                    f"{total - self._rows}, got {sorted(rows)}"
                )
            self._rows += rows.pop()
        self._total = total
        return chunk.predicted

    def end(self) -> None:
        """Check that nothing is missing.

        Raises:
            Unavailable: The server ended the answer before its last row.
        """
        if self._rows != self._total:
            raise Unavailable(
                f"{self.what}: the server ended after {self._rows} of {self._total} rows"
            )


def parts(wanted: Wanted, metadata: ModelMetadata | None) -> Parts:
    """Yield what to ask for, and be sent what came of it; the first parts are small.

    A part whose answer is too large is asked for in halves, and those after it are no larger. All
    parts are asked of the version that answered the first. Where rows may depend on each other
    there is one part, the whole.

    Raises:
        MessageTooLarge: A single row is.
    """
    if mould(wanted, metadata) is None:
        outcome = yield wanted
        if isinstance(outcome, MessageTooLarge):
            raise outcome
        return
    total, start, count = rows_of(wanted), 0, FIRST_ROWS
    most = total
    while start < total:
        count = min(count, most, total - start)
        outcome = yield _rows(wanted, start, start + count)
        if isinstance(outcome, MessageTooLarge):
            if count == 1:
                raise outcome
            most = count // 2
            continue
        start += count
        wanted = replace(wanted, asked=_pinned(wanted.asked, outcome))
        nbytes = sum(map(size_of, outcome.outputs.values()))
        count = max(1, PART_BYTES * count // max(nbytes, 1))


def next_part(asked: Parts, outcome: Prediction | MessageTooLarge | None) -> Wanted | None:
    """Return what to ask for after `outcome`, None at first; None where that is all.

    Raises:
        MessageTooLarge: As `parts`.
    """
    try:
        return asked.send(outcome) if outcome is not None else next(asked)
    except StopIteration:
        return None


def _rows(wanted: Wanted, start: int, stop: int) -> Wanted:
    given = wanted.given
    if isinstance(given, dict):
        return replace(wanted, given={name: array[start:stop] for name, array in given.items()})
    return replace(wanted, given=given[start:stop])


def _pinned(asked: Servable, answered: Prediction) -> Servable:
    return asked if answered.version is None else Servable(asked.model, answered.version)
