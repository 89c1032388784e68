"""Predictions as Arrow tables, for the formats that have columns; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ladle.batch.errors import BatchError, one_line
from ladle.batch.rows import Answered, Column
from ladle.batch.writers.names import ROW, plain, sayable, two_columns


def table(answered: Answered, lists: Set[str] = frozenset()) -> pa.Table:
    """Return the row numbers, what is kept of the input, and the outputs.

    Outputs with more than one number a row are lists of a fixed size; those of `lists`, of any.

    Raises:
        BatchError: A column is of no type that Arrow has.
    """
    columns = {ROW: pa.array(answered.numbers)}
    for name, column in answered.kept.items():
        columns[name] = _kept(name, column)
    for name, output in answered.outputs.items():
        columns[name] = to_arrow(f'output "{name}"', output, name in lists)
    return pa.table(columns)


def to_arrow(name: str, array: NDArray[Any], are_lists: bool = False) -> pa.Array:
    """Return an output `[rows, ...]` as an Arrow array with a value or a list for each row.

    Raises:
        BatchError: Arrow has no such type.
    """
    array = plain(array)
    flat = array.reshape(-1)
    try:
        values = pa.array(flat, pa.binary()) if array.dtype.kind == "O" else pa.array(flat)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        raise BatchError(
            f"{name}: {array.dtype} can't be a column of a table; leave it out, or write npy"
        ) from None
    for axis in range(array.ndim - 1, 0, -1):
        size = array.shape[axis]
        if are_lists or not size:
            count = int(np.prod(array.shape[:axis]))
            offsets = np.arange(count + 1, dtype=np.int64) * size
            values = pa.LargeListArray.from_arrays(pa.array(offsets), values)
        else:
            values = pa.FixedSizeListArray.from_arrays(values, size)
    return values


def _kept(name: str, column: Column) -> pa.Array:
    if not isinstance(column, np.ndarray):
        return column
    if column.dtype != object:
        return to_arrow(f'column "{name}"', column)
    values = column.tolist()
    try:
        try:
            array = pa.array(values)
        except UnicodeEncodeError:  # as of files whose names are no UTF-8
            array = pa.array([sayable(value) for value in values])
        # Nothing but missing values has no type of its own; later rows most likely hold text.
        return array.cast(pa.string()) if pa.types.is_null(array.type) else array
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
        raise BatchError(
            f'column "{name}" can\'t be kept as a column of a table: {one_line(error)}'
        ) from None


def scalar_columns(whole: pa.Table) -> pa.Table:
    """Return the table with a column for each number, `name_0`, `name_1`: lists in no table.

    Raises:
        BatchError: A list is not of a fixed size, or two columns have the same name.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for name, column in zip(whole.column_names, whole.columns, strict=True):
        for flat_name, flat in _flattened(name, column).items():
            if flat_name in columns:
                raise two_columns(flat_name)
            columns[flat_name] = flat
    return pa.table(columns)


def _flattened(name: str, column: pa.ChunkedArray) -> Mapping[str, pa.ChunkedArray]:
    if pa.types.is_fixed_size_list(column.type):
        size = column.type.list_size
        inner = pa.chunked_array(
            [chunk.flatten() for chunk in column.chunks], column.type.value_type
        )
        found: dict[str, pa.ChunkedArray] = {}
        for index in range(size):
            rows = pa.array(np.arange(index, len(inner), size))
            found.update(_flattened(f"{name}_{index}", inner.take(rows)))
        return found
    if pa.types.is_nested(column.type):
        raise BatchError(
            f'column "{name}": CSV has no place for {column.type}; write parquet or jsonl'
        )
    return {name: column}
