"""Rows at each stage: as they were read, ready to be sent, and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.batch.errors import BatchError
from ladle.batch.output.classes import with_classes
from ladle.client.prediction import Prediction, size_of

if TYPE_CHECKING:
    import pyarrow as pa

Column: TypeAlias = "NDArray[Any] | pa.Array"
"""The values of a column: an Arrow array of length `rows`, or a numpy array of shape `[rows, ...]`.
A numpy array of objects holds text, bytes, or values of JSON."""


def objects(values: Sequence[object]) -> NDArray[Any]:
    """Return values as an array of objects, `[values]`; lists stay objects too."""
    array = np.empty(len(values), object)
    for index, value in enumerate(values):  # all at once, numpy would look into lists
        array[index] = value
    return array


class FailedRow(NamedTuple):
    """A row without a prediction, and the reason."""

    row: int
    code: str
    """The name of a gRPC status, such as INVALID_ARGUMENT."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Consecutive rows of the input, as a reader read them."""

    start: int
    """The number of the first row, from 0."""
    stop: int
    """The number after the last row."""
    numbers: NDArray[np.int64]
    """The rows that could be read, in order, `[rows]`."""
    columns: Mapping[str, Column]
    """Each column has one value for each of `numbers`."""
    failed: tuple[FailedRow, ...] = ()
    """The rows that could not be read, in order."""
    share: float = 0.0
    """How much of the input has been read so far, from 0 to 1; 0 where that is unknown."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows, ready to be sent in one request."""

    start: int
    stop: int
    numbers: NDArray[np.int64]
    tensors: Mapping[str, NDArray[Any]]
    """By the name of the model's input, `[rows, ...]`, one row for each of `numbers`."""
    kept: Mapping[str, Column]
    """Columns that go into the output beside the predictions, a value for each of `numbers`."""
    failed: tuple[FailedRow, ...] = ()
    share: float = 0.0
    picture_bytes: int = 0
    """About how many bytes the pictures of one row have once they are decoded."""

    @property
    def nbytes(self) -> int:
        """About how many bytes the tensors have when they are sent."""
        tensors = sum(map(size_of, self.tensors.values()))
        return tensors + self.picture_bytes * len(self.numbers)

    def halves(self) -> tuple[Part, Part]:
        """Return two parts of half the rows each; there are at least two rows to send."""
        return self.cut(len(self.numbers) // 2)

    def cut(self, count: int) -> tuple[Part, Part]:
        """Return two parts; the first has `count` rows to send, at least one."""
        return self._cut(count, int(self.numbers[count]))

    def cut_before(self, row: int) -> tuple[Part, Part]:
        """Return the rows before number `row`, and the others; there are some of both."""
        return self._cut(int(np.searchsorted(self.numbers, row)), row)

    def _cut(self, count: int, row: int) -> tuple[Part, Part]:
        first = replace(
            self,
            stop=row,
            numbers=self.numbers[:count],
            tensors={name: tensor[:count] for name, tensor in self.tensors.items()},
            kept={name: column[:count] for name, column in self.kept.items()},
            failed=tuple(failed for failed in self.failed if failed.row < row),
        )
        second = replace(
            self,
            start=row,
            numbers=self.numbers[count:],
            tensors={name: tensor[count:] for name, tensor in self.tensors.items()},
            kept={name: column[count:] for name, column in self.kept.items()},
            failed=tuple(failed for failed in self.failed if failed.row >= row),
        )
        return first, second

    def moved(self, by: int) -> Part:
        """Return the part with `by` added to the numbers of its rows."""
        if not by:
            return self
        return replace(
            self,
            start=self.start + by,
            stop=self.stop + by,
            numbers=self.numbers + by,
            failed=tuple(failed._replace(row=failed.row + by) for failed in self.failed),
        )

    def answered(self, prediction: Prediction) -> Answered:
        """Return the rows with their predictions.

        Raises:
            BatchError: An output has not one row for each row of the part.
        """
        rows = len(self.numbers)
        for name, output in prediction.outputs.items():
            if not output.ndim or len(output) != rows:
                raise BatchError(
                    f'output "{name}": expected {rows} rows for as many inputs, got shape '
                    f"{list(output.shape)}; leave it out with --outputs"
                )
        return Answered(
            start=self.start,
            stop=self.stop,
            numbers=self.numbers,
            outputs=with_classes(prediction, frozenset(self.kept)),
            kept=self.kept,
            failed=self.failed,
            version=prediction.version,
            share=self.share,
        )

    def unanswered(self, *failed: FailedRow) -> Answered:
        """Return the rows without predictions: the rows that `failed` now or before."""
        return Answered(
            start=self.start,
            stop=self.stop,
            numbers=self.numbers[:0],
            outputs={},
            failed=tuple(sorted((*self.failed, *failed))),
            share=self.share,
        )


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Consecutive rows with their predictions."""

    start: int
    stop: int
    numbers: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]
    """By name, `[rows, ...]`, one row for each of `numbers`."""
    kept: Mapping[str, Column] = field(default_factory=dict)
    failed: tuple[FailedRow, ...] = ()
    version: int | None = None
    """The version that answered; None where the server doesn't say."""
    share: float = 0.0

    @property
    def nbytes(self) -> int:
        """About how many bytes the outputs and the kept columns have."""
        kept = (
            size_of(column) if isinstance(column, np.ndarray) else column.nbytes
            for column in self.kept.values()
        )
        return sum(map(size_of, self.outputs.values())) + sum(kept)
