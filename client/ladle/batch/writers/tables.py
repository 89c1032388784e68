"""Predictions as Arrow tables, for Parquet and CSV; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ladle.batch.errors import BatchError, one_line
from ladle.batch.rows import Answered, Column
from ladle.batch.writers.names import ROW, plain, two_columns, utf8_safe


def table(answered: Answered, lists: Set[str] = frozenset()) -> pa.Table:
    """Return the row numbers, the kept columns and the outputs.

    An output with several numbers in a row becomes lists of a fixed size. The outputs in `lists`
    become lists of any size, so that the sizes may differ between requests.

    Raises:
        BatchError: Arrow has no type for a column.
    """
    columns = {ROW: pa.array(answered.numbers)}
    for name, column in answered.kept.items():
        columns[name] = _kept(name, column)
    for name, output in answered.outputs.items():
        columns[name] = to_arrow(f'output "{name}"', output, name in lists)
    return pa.table(columns)


def to_arrow(name: str, array: NDArray[Any], are_lists: bool = False) -> pa.Array:
    """Return an output, `[rows, ...]`, as an Arrow array with a value or a list for each row.

    Raises:
        BatchError: Arrow has no type for the dtype.
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
            array = pa.array([utf8_safe(value) for value in values])
        # Missing values alone have no type. Text is the most likely type of later rows.
        return array.cast(pa.string()) if pa.types.is_null(array.type) else array
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, ValueError) as error:
        raise BatchError(
            f'column "{name}" can\'t be kept as a column of a table: {one_line(error)}'
        ) from None


def scalar_columns(whole: pa.Table) -> pa.Table:
    """Return the table with a column for each number of a list: `name_0`, `name_1`.

    Raises:
        BatchError: Lists have no fixed size, or two columns have the same name.
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
