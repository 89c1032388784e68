"""Rows on their way from the input to the model: read, prepared, answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Column: TypeAlias = "NDArray[Any] | pa.Array"
"""The values of a column, one for each row: an Arrow array as it was read, or a numpy array whose
first dimension is the rows. Objects are text, bytes or whatever a line of JSON held."""

_OBJECT_BYTES = 4096


class FailedRow(NamedTuple):
    """A row without a prediction, and why."""

    row: int
    code: str
    """gRPC's name of what is wrong, such as INVALID_ARGUMENT."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Consecutive rows of the input, as a reader found them."""

    start: int
    """The number of the first, from 0."""
    stop: int
    """The number after the last."""
    numbers: NDArray[np.int64]
    """Those that could be read, in order."""
    columns: Mapping[str, Column]
    """Each has a value for each of `numbers`."""
    failed: tuple[FailedRow, ...] = ()
    """Those that could not."""
    share: float = 0.0
    """How much of the input has been read with these, from 0 to 1; 0 where nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows, ready to be sent in one request."""

    start: int
    stop: int
    numbers: NDArray[np.int64]
    tensors: Mapping[str, NDArray[Any]]
    """Each has a row for each of `numbers`."""
    kept: Mapping[str, Column]
    """What goes into the output beside the predictions, a value for each of `numbers`."""
    failed: tuple[FailedRow, ...] = ()
    share: float = 0.0

    @property
    def nbytes(self) -> int:
        """About how many bytes the tensors take; text and pictures are only guessed at."""
        return sum(
            _OBJECT_BYTES * tensor.size if tensor.dtype == object else tensor.nbytes
            for tensor in self.tensors.values()
        )

    def halves(self) -> tuple[Part, Part]:
        """Return the part in two; it has at least two rows to send."""
        return self.cut(len(self.numbers) // 2)

    def cut(self, count: int) -> tuple[Part, Part]:
        """Return the part in two, the first with `count` rows to send, at least one."""
        return self._cut(count, int(self.numbers[count]))

    def cut_before(self, row: int) -> tuple[Part, Part]:
        """Return the rows before number `row` and those from there; neither is empty."""
        return self._cut(int(np.searchsorted(self.numbers, row)), row)

    def _cut(self, count: int, row: int) -> tuple[Part, Part]:
        first = Part(
            start=self.start,
            stop=row,
            numbers=self.numbers[:count],
            tensors={name: tensor[:count] for name, tensor in self.tensors.items()},
            kept={name: column[:count] for name, column in self.kept.items()},
            failed=tuple(failed for failed in self.failed if failed.row < row),
            share=self.share,
        )
        second = Part(
            start=row,
            stop=self.stop,
            numbers=self.numbers[count:],
            tensors={name: tensor[count:] for name, tensor in self.tensors.items()},
            kept={name: column[count:] for name, column in self.kept.items()},
            failed=tuple(failed for failed in self.failed if failed.row >= row),
            share=self.share,
        )
        return first, second


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Consecutive rows with their predictions."""

    start: int
    stop: int
    numbers: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]
    """Each has a row for each of `numbers`."""
    kept: Mapping[str, Column] = field(default_factory=dict)
    failed: tuple[FailedRow, ...] = ()
    version: int | None = None
    """The version that answered."""
    share: float = 0.0

    @property
    def nbytes(self) -> int:
        """About how many bytes the outputs take."""
        return sum(output.nbytes for output in self.outputs.values())
