"""Makes tensors of columns; rows that can't become tensors fail one by one.

Whole columns are converted at once. Where that fails, the rows are tried in halves, down to the bad
rows, so that a few bad rows cost little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.batch.columns.mapping import ColumnSource
from ladle.batch.rows import Column, FailedRow, Part, Rows
from ladle.client.inputs.conversion import fits
from ladle.client.inputs.images import expected_pixels
from ladle.client.models import TensorSpec
from ladle.protos import dtypes

# The size of pictures for a model that takes any size.
_SIDE = 256
# Up to here float64 has every whole number.
_EXACT_UP_TO = 1 << 53

_Tensors: TypeAlias = "dict[str, NDArray[Any]]"


class _Unfit(ValueError):
    """Values that can't become a tensor."""


class _Piece(NamedTuple):
    """Consecutive good rows, by their positions in the chunk, and their tensors."""

    begin: int
    end: int
    tensors: _Tensors

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """The shape of a row and the dtype, by tensor; rows of different ones make two parts."""
        return {name: (t.shape[1:], t.dtype) for name, t in self.tensors.items()}


def prepare(rows: Rows, sources: Mapping[str, ColumnSource], keep: Sequence[str]) -> Iterator[Part]:
    """Yield the rows as parts, in order; several where the shapes of rows differ."""
    if rows.start == rows.stop:
        return
    pieces, unfit = _pieces(rows, sources, 0, len(rows.numbers))
    failed = sorted([*rows.failed, *unfit])
    groups = [
        list(group) for _, group in groupby(pieces, key=lambda piece: sorted(piece.shapes.items()))
    ] or [[]]
    start = rows.start
    for index, group in enumerate(groups):
        is_last = index == len(groups) - 1
        stop = rows.stop if is_last else int(rows.numbers[groups[index + 1][0].begin])
        yield _part(rows, group, sources, keep, start, stop, failed)
        start = stop


def _pieces(
    rows: Rows, sources: Mapping[str, ColumnSource], begin: int, end: int
) -> tuple[list[_Piece], list[FailedRow]]:
    """Convert the rows at positions `begin` to `end`; halve them until each bad row is alone."""
    if begin == end:
        return [], []
    columns = {name: column[begin:end] for name, column in rows.columns.items()}
    try:
        return [_Piece(begin, end, _tensors(columns, sources, end - begin))], []
    except _Unfit as error:
        if end - begin == 1:
            return [], [FailedRow(int(rows.numbers[begin]), "INVALID_ARGUMENT", str(error))]
    middle = (begin + end) // 2
    first, failed_first = _pieces(rows, sources, begin, middle)
    second, failed_second = _pieces(rows, sources, middle, end)
    return first + second, failed_first + failed_second


def _part(
    rows: Rows,
    pieces: Sequence[_Piece],
    sources: Mapping[str, ColumnSource],
    keep: Sequence[str],
    start: int,
    stop: int,
    failed: Sequence[FailedRow],
) -> Part:
    """Return the rows from number `start` to `stop`, which have the tensors of `pieces`."""
    positions = np.concatenate(
        [np.arange(0), *(np.arange(piece.begin, piece.end) for piece in pieces)]
    )
    if len(pieces) == 1:
        tensors = pieces[0].tensors
    else:
        tensors = {
            name: np.concatenate([piece.tensors[name] for piece in pieces])
            for name in (sources if pieces else ())
        }
    is_whole = len(positions) == len(rows.numbers)
    return Part(
        start=start,
        stop=stop,
        numbers=rows.numbers[positions],
        tensors=tensors,
        kept={
            name: rows.columns[name] if is_whole else _take(rows.columns[name], positions)
            for name in keep
        },
        failed=tuple(row for row in failed if start <= row.row < stop),
        share=rows.share,
        picture_bytes=_picture_bytes(tensors, sources),
    )


def _take(column: Column, positions: NDArray[np.int64]) -> Column:
    return column[positions] if isinstance(column, np.ndarray) else column.take(positions)


def _tensors(
    columns: Mapping[str, Column], sources: Mapping[str, ColumnSource], rows: int
) -> dict[str, NDArray[Any]]:
    tensors: dict[str, NDArray[Any]] = {}
    for name, source in sources.items() if rows else ():
        about = ", ".join(source.columns[:3])
        try:
            parts = [_array(columns[column], source) for column in source.columns]
            array = parts[0] if len(parts) == 1 else _stacked(parts)
            tensors[name] = _shaped(array, rows, source.spec)
        except _Unfit as error:
            raise _Unfit(f'column "{about}": {error}') from None
    return tensors


def _array(column: Column, source: ColumnSource) -> NDArray[Any]:
    are_decimals = False
    if not isinstance(column, np.ndarray):
        from ladle.batch.columns import arrow  # columns of Arrow come from who has imported pyarrow

        try:
            # Decimals have no dtype in numpy, so that they take the one that is declared.
            are_decimals = arrow.are_decimals(column.type)
            column = arrow.to_numpy(column, source.dtype)
        except arrow.NotAnArray as error:
            raise _Unfit(str(error)) from None
    if column.dtype == object and len(column):
        column = _from_objects(column, source)
    if column.dtype.kind == "V" and not column.dtype.names:
        column = _from_bytes(column, source.spec)
    dtype = source.dtype
    if dtype is None and (are_decimals or column.dtype == bool):
        dtype = _declared_number(source.spec)
    if dtype is not None and column.dtype != dtype and column.dtype != object:
        return _cast(column, dtype)
    return column


def _declared_number(spec: TensorSpec | None) -> np.dtype[Any] | None:
    """Return the declared dtype if numpy itself has it as a number; None for others."""
    try:
        return spec.dtype if spec is not None and spec.dtype.kind in "iuf" else None
    except dtypes.UnsupportedDtype:
        return None


def _from_objects(column: NDArray[Any], source: ColumnSource) -> NDArray[Any]:
    """Return values of Python, lists or arrays as one array; text and bytes stay objects."""
    if _is_string(source.spec) and all(isinstance(v, bytes | str) for v in column):
        return column
    if any(value is None for value in column):
        raise _Unfit("it has no value")
    if all(isinstance(value, bytes | str) for value in column):
        if source.spec is None or expected_pixels(source.spec.shape) is not None:
            return column  # pictures: their bytes or their paths
        raise _Unfit(f"expected numbers, got {column[0]!r:.50}")
    try:
        array = np.array(column.tolist())
    except (ValueError, TypeError, OverflowError):
        raise _Unfit("its values make no array") from None
    if array.dtype.kind in "SU" and _is_string(source.spec):
        array = np.array(column.tolist(), object)  # fixed-width text loses NULs at its end
    if array.dtype.kind not in "biufcO" or (array.dtype == object and not _is_string(source.spec)):
        raise _Unfit(f"expected numbers, got {column[0]!s:.50}")
    return array


def _from_bytes(column: NDArray[Any], spec: TensorSpec | None) -> NDArray[Any]:
    """Return bytes of one length as strings, numbers or encoded pictures, as `spec` declares."""
    width = column.dtype.itemsize
    if spec is not None and not _is_string(spec):
        size = _size(spec)
        if size == width:
            return column.view(np.uint8).reshape(len(column), width)
        try:
            if size is not None and size * spec.dtype.itemsize == width:
                return column.view(spec.dtype).reshape(len(column), size)
        except dtypes.UnsupportedDtype:
            pass
        if expected_pixels(spec.shape) is None:
            raise _Unfit(f"expected {spec} in each row, got {width} bytes")
    objects = np.empty(len(column), object)
    objects[:] = column.tolist()
    return objects


def _cast(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise _Unfit(f"expected numbers, got {array.dtype}")
    if array.size and dtype.kind in "iu":
        info = np.iinfo(dtype)
        least, most = array.min(), array.max()
        if not (info.min <= least and most <= info.max):
            raise _Unfit(f"expected {dtype}, {info.min} to {info.max}, got {least} to {most}")
        if array.dtype.kind == "f":
            if np.any(array != np.trunc(array)):
                raise _Unfit(f"expected {dtype}, got a number that is not whole")
            if max(-least, most) > _EXACT_UP_TO:  # whole numbers among fractions have become floats
                raise _Unfit(f"expected {dtype}, got a float that may not be exact")
    if dtype.kind == "b" and not np.all((array == 0) | (array == 1)):
        raise _Unfit("expected bool, 0 or 1, got another number")
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except FloatingPointError:
        raise _Unfit(f"expected {dtype}, got a number that is too large for it") from None


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if len({part.shape for part in parts}) > 1:
        raise _Unfit("the columns are of different shapes")
    return np.stack(parts, axis=-1)


def _shaped(array: NDArray[Any], rows: int, spec: TensorSpec | None) -> NDArray[Any]:
    """Return the array in the declared shape; flat rows are reshaped."""
    if spec is None or spec.shape is None or not spec.shape:
        return array
    inner = spec.shape[1:]
    if array.dtype == object and array.ndim == 1 and not _is_string(spec):
        return array  # pictures
    given = array.shape[1:]
    if fits(given, inner):
        return array
    size = _size(spec)
    # Files don't distinguish [rows] from [rows, 1].
    is_flat = len(given) <= 1 or inner in ((), (1,))
    if is_flat and size is not None and math.prod(given) == size:
        return array.reshape(rows, *inner)
    raise _Unfit(f"expected {list(inner)} in each row, got {list(given)}")


def _picture_bytes(tensors: Mapping[str, NDArray[Any]], sources: Mapping[str, ColumnSource]) -> int:
    """Return about how many bytes the pictures of one row have once they are decoded."""
    total = 0
    for name, tensor in tensors.items():
        spec = sources[name].spec
        if tensor.dtype != object or spec is None or _is_string(spec):
            continue
        wanted = expected_pixels(spec.shape)
        if wanted is not None:
            sides = (_SIDE if side < 0 else side for side in (wanted.height, wanted.width))
            channels = 3 if wanted.channels == -1 else wanted.channels or 1
            total += math.prod(sides) * channels * _item_bytes(spec)
    return total


def _item_bytes(spec: TensorSpec) -> int:
    try:
        return spec.dtype.itemsize
    except dtypes.UnsupportedDtype:
        return 4


def _size(spec: TensorSpec) -> int | None:
    """Return how many values a row has; None where the model takes any number of them."""
    if spec.shape is None or any(size < 0 for size in spec.shape[1:]):
        return None
    return math.prod(spec.shape[1:])


def _is_string(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.data_type == dtypes.STRING
