"""One prediction in parts of its rows, for `Client.predict_chunks`; no I/O.

ChunkReader reads what a server sends in chunks. `parts` splits the request for other servers.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from ladle.client.calls.flows import PredictCall
from ladle.client.coalescing.groups import coalescing_key, rows_of
from ladle.client.errors import InvalidAnswer, MessageTooLarge, Unavailable
from ladle.client.messages import responses
from ladle.client.messages.requests import Servable
from ladle.client.messages.responses import Predicted
from ladle.client.models import ModelMetadata
from ladle.client.prediction import Prediction, size_of

FIRST_ROWS = 64
"""The rows of the first part, before the size of a row's answer is known."""
PART_BYTES = 4_000_000
"""The size that a part's answer should have, about."""

Parts = Generator[PredictCall, "Prediction | MessageTooLarge", None]


class ChunkReader:
    """Reads the messages of one PredictInChunks call, in order."""

    def __init__(self, target: Servable) -> None:
        self.what = f"PredictInChunks of {target}"
        self._target = target
        self._rows = 0
        self._total: int | None = None

    def start(self, message: bytes, target: Servable) -> Predicted:
        """Read the first message of a call. A retried call starts again.

        Raises:
            InvalidAnswer: As `read`.
        """
        self._rows, self._total = 0, None
        return self.read(message)

    def read(self, message: bytes) -> Predicted:
        """Read a message.

        Raises:
            InvalidAnswer: It is no PredictChunk, or its rows are not the next rows.
        """
        chunk = responses.chunk(message, self._target)
        total = chunk.total_rows if self._total is None else self._total
        if self._total == 0:
            raise InvalidAnswer(f"{self.what}: expected one message without rows, got another")
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
        """Check that the last row has come.

        Raises:
            Unavailable: The server ended the answer before its last row.
        """
        if self._rows != self._total:
            raise Unavailable(
                f"{self.what}: the server ended after {self._rows} of {self._total} rows"
            )


def parts(call: PredictCall, metadata: ModelMetadata | None) -> Parts:
    """Yield calls for some rows each, and receive each one's outcome; the first part is small.

    If a part's answer is too large, the part is split in halves, and later parts are no larger. All
    parts go to the version that answered the first. If rows may depend on each other, there is one
    part with all rows.

    Raises:
        MessageTooLarge: The answer to a single row is too large.
    """
    if coalescing_key(call, metadata) is None:
        outcome = yield call
        if isinstance(outcome, MessageTooLarge):
            raise outcome
        return
    total, start, count = rows_of(call), 0, FIRST_ROWS
    most = total
    while start < total:
        count = min(count, most, total - start)
        outcome = yield _rows(call, start, start + count)
        if isinstance(outcome, MessageTooLarge):
            if count == 1:
                raise outcome
            most = count // 2
            continue
        start += count
        call = replace(call, target=_pinned(call.target, outcome))
        nbytes = sum(map(size_of, outcome.outputs.values()))
        count = max(1, PART_BYTES * count // max(nbytes, 1))


def next_part(target: Parts, outcome: Prediction | MessageTooLarge | None) -> PredictCall | None:
    """Return the call that follows `outcome`, which is None at first; None after the last part.

    Raises:
        MessageTooLarge: As `parts`.
    """
    try:
        return target.send(outcome) if outcome is not None else next(target)
    except StopIteration:
        return None


def _rows(call: PredictCall, start: int, stop: int) -> PredictCall:
    inputs = call.inputs
    if isinstance(inputs, dict):
        return replace(call, inputs={name: array[start:stop] for name, array in inputs.items()})
    return replace(call, inputs=inputs[start:stop])


def _pinned(target: Servable, answered: Prediction) -> Servable:
    return target if answered.version is None else Servable(target.model, answered.version)
