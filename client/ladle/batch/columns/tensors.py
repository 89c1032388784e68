"""Rows of columns made into parts with tensors; what can't be made is told row by row.

Whole columns are converted at once. Only where that fails is each row tried alone, to find those
that are at fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.batch.columns.mapping import Source
from ladle.batch.rows import Column, FailedRow, Part, Rows
from ladle.client.inputs.conversion import fits
from ladle.client.inputs.images import expected_pixels
from ladle.client.models import TensorSpec
from ladle.protos import dtypes

# What the sides of pictures are taken for where a model takes any.
_SIDE = 256

_Shapes: TypeAlias = "dict[str, tuple[tuple[int, ...], np.dtype[Any]]]"


class _Unfit(ValueError):
    """Values that no tensor can be made of."""


def prepare(rows: Rows, sources: Mapping[str, Source], keep: Sequence[str]) -> Iterator[Part]:
    """Yield the rows as parts, in order; more than one where their shapes differ."""
    if rows.start == rows.stop:
        return
    numbers = rows.numbers
    columns = rows.columns
    failed = list(rows.failed)
    try:
        tensors = _tensors(columns, sources, len(numbers))
    except _Unfit:
        good, shapes, unfit = _one_by_one(rows, sources)
        failed += unfit
        yield from _runs(rows, sources, keep, good, shapes, sorted(failed))
        return
    yield Part(
        start=rows.start,
        stop=rows.stop,
        numbers=numbers,
        tensors=tensors,
        kept={name: columns[name] for name in keep},
        failed=tuple(sorted(failed)),
        share=rows.share,
        picture_bytes=_picture_bytes(tensors, sources),
    )


def _one_by_one(
    rows: Rows, sources: Mapping[str, Source]
) -> tuple[list[int], list[_Shapes], list[FailedRow]]:
    """Return the positions of the good rows, what each row's shapes are, and the bad rows."""
    good: list[int] = []
    shapes: list[_Shapes] = []
    unfit: list[FailedRow] = []
    for position, number in enumerate(rows.numbers.tolist()):
        one = {name: column[position : position + 1] for name, column in rows.columns.items()}
        try:
            tensors = _tensors(one, sources, 1)
        except _Unfit as error:
            unfit.append(FailedRow(number, "INVALID_ARGUMENT", str(error)))
        else:
            good.append(position)
            # Numbers of JSON may be integers in one row and not in the next.
            shapes.append({name: (t.shape, t.dtype) for name, t in tensors.items()})
    return good, shapes, unfit


def _runs(
    rows: Rows,
    sources: Mapping[str, Source],
    keep: Sequence[str],
    good: list[int],
    shapes: list[_Shapes],
    failed: list[FailedRow],
) -> Iterator[Part]:
    """Yield the good rows in runs of equal shapes, each with the bad ones up to the next."""
    start = rows.start
    begin = 0
    while begin < len(good) or start < rows.stop:
        end = begin
        while end < len(good) and shapes[end] == shapes[begin]:
            end += 1
        chosen = np.array(good[begin:end], np.int64)
        columns = {name: _take(column, chosen) for name, column in rows.columns.items()}
        stop = int(rows.numbers[good[end]]) if end < len(good) else rows.stop
        tensors = _tensors(columns, sources, len(chosen))
        yield Part(
            start=start,
            stop=stop,
            numbers=rows.numbers[chosen],
            tensors=tensors,
            kept={name: columns[name] for name in keep},
            failed=tuple(row for row in failed if start <= row.row < stop),
            share=rows.share,
            picture_bytes=_picture_bytes(tensors, sources),
        )
        start, begin = stop, end


def _take(column: Column, positions: NDArray[np.int64]) -> Column:
    return column[positions] if isinstance(column, np.ndarray) else column.take(positions)


def _tensors(
    columns: Mapping[str, Column], sources: Mapping[str, Source], rows: int
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


def _array(column: Column, source: Source) -> NDArray[Any]:
    if not isinstance(column, np.ndarray):
        from ladle.batch.columns import arrow  # columns of Arrow come from who has imported pyarrow

        try:
            column = arrow.to_numpy(column, source.dtype)
        except arrow.NotAnArray as error:
            raise _Unfit(str(error)) from None
    if column.dtype == object and len(column):
        column = _from_objects(column, source)
    if column.dtype.kind == "V" and not column.dtype.names:
        column = _from_bytes(column, source.spec)
    if source.dtype is not None and column.dtype != source.dtype and column.dtype != object:
        return _cast(column, source.dtype)
    return column


def _from_objects(column: NDArray[Any], source: Source) -> NDArray[Any]:
    """Return Python's values, lists or arrays as one array; text and bytes stay objects."""
    if _is_string(source.spec) and all(isinstance(v, bytes | str) for v in column):
        return column
    if any(value is None for value in column):
        raise _Unfit("it has no value")
    if all(isinstance(value, bytes | str) for value in column):
        if source.spec is None or expected_pixels(source.spec.shape) is not None:
            return column  # pictures: encoded, or where they are
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
    """Return bytes of one length as what they must be: strings, numbers, or encoded pictures."""
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
        if array.dtype.kind == "f" and np.any(array != np.trunc(array)):
            raise _Unfit(f"expected {dtype}, got a number that is not whole")
    return array.astype(dtype)


def _stacked(parts: list[NDArray[Any]]) -> NDArray[Any]:
    if len({part.shape for part in parts}) > 1:
        raise _Unfit("the columns are of different shapes")
    return np.stack(parts, axis=-1)


def _shaped(array: NDArray[Any], rows: int, spec: TensorSpec | None) -> NDArray[Any]:
    """Return the array in the declared shape, row by row where the rows are flat."""
    if spec is None or spec.shape is None or not spec.shape:
        return array
    inner = spec.shape[1:]
    if array.dtype == object and array.ndim == 1 and not _is_string(spec):
        return array  # pictures
    given = array.shape[1:]
    if fits(given, inner):
        return array
    size = _size(spec)
    # [rows] and [rows, 1] are the same to whoever writes a file.
    is_flat = len(given) <= 1 or inner in ((), (1,))
    if is_flat and size is not None and math.prod(given) == size:
        return array.reshape(rows, *inner)
    raise _Unfit(f"expected {list(inner)} in each row, got {list(given)}")


def _picture_bytes(tensors: Mapping[str, NDArray[Any]], sources: Mapping[str, Source]) -> int:
    """Return about how many bytes the pictures of a row will take."""
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
    """Return how many values a row has; None where the model takes any number."""
    if spec.shape is None or any(size < 0 for size in spec.shape[1:]):
        return None
    return math.prod(spec.shape[1:])


def _is_string(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.data_type == dtypes.STRING
