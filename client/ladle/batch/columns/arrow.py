"""Arrow's columns as numpy arrays, without a copy where possible; needs pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ladle.batch.errors import one_line
from ladle.batch.rows import objects

# Types of the same values as others, which the code below knows.
_PLAIN = {
    pa.string_view().id: pa.large_string(),
    pa.binary_view().id: pa.large_binary(),
}
_INT64_DIGITS = 18


class NotAnArray(ValueError):
    """A column's rows have different shapes, or a row has no value."""


def to_numpy(column: pa.Array, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """Return a column as an array, `[rows, ...]`.

    Lists become dimensions. Bytes of one length become numpy's void dtype of that length; other
    bytes, and text, become objects. Decimals become int64 or float64. With a `dtype` text becomes
    numbers: of that dtype, or float64 where Arrow doesn't have the dtype.

    Raises:
        NotAnArray: A value is missing, lists have different lengths, or text is no number.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if isinstance(kind, pa.FixedShapeTensorType):
            inner = to_numpy(column.storage, dtype)
            return inner.reshape(len(column), *kind.shape)
        return to_numpy(column.storage, dtype)
    if pa.types.is_dictionary(kind):
        return to_numpy(column.dictionary_decode(), dtype)
    if (plain := _PLAIN.get(kind.id)) is not None:
        return to_numpy(column.cast(plain), dtype)
    if column.null_count:
        raise NotAnArray("it has no value")
    if pa.types.is_fixed_size_list(kind):
        inner = to_numpy(column.flatten(), dtype)
        return inner.reshape(len(column), kind.list_size, *inner.shape[1:])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        length = int(lengths[0]) if len(lengths) else 0
        if np.any(lengths != length):
            raise NotAnArray("its lists are of several lengths")
        inner = to_numpy(column.flatten(), dtype)
        return inner.reshape(len(column), length, *inner.shape[1:])
    if pa.types.is_fixed_size_binary(kind):
        return _void(
            column.buffers()[1], column.offset * kind.byte_width, kind.byte_width, len(column)
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
        if len(lengths) and lengths[0] and np.all(lengths == lengths[0]):
            large = pa.types.is_large_binary(kind)
            offsets = np.frombuffer(column.buffers()[1], np.int64 if large else np.int32)
            begin = int(offsets[column.offset])
            return _void(column.buffers()[2], begin, int(lengths[0]), len(column))
        return objects(column.to_pylist())
    if pa.types.is_decimal(kind):
        return _from_decimals(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if dtype is None:
            return objects(column.to_pylist())
        return _from_text(pc.utf8_trim_whitespace(column), dtype)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _from_text(column: pa.Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        numbers = pc.cast(column, _type_of(dtype))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise NotAnArray(one_line(error)) from None
    array = np.asarray(numbers.to_numpy(zero_copy_only=False))
    if array.dtype.kind == "f" and (are_infinite := np.isinf(array)).any():
        for text in column.filter(pa.array(are_infinite)).to_pylist():
            if "inf" not in text.lower():
                raise NotAnArray(f"expected {dtype}, got {text:.50}, which is too large for it")
    return array


def are_decimals(kind: pa.DataType) -> bool:
    """Tell whether a column of that type holds decimals, or lists of them."""
    while pa.types.is_nested(kind) and kind.num_fields == 1:
        kind = kind.field(0).type
    return bool(pa.types.is_decimal(kind))


def _from_decimals(column: pa.Array) -> NDArray[Any]:
    """Return int64 where the decimals are whole and fit, else float64."""
    is_small = column.type.precision - column.type.scale <= _INT64_DIGITS
    wanted = pa.int64() if column.type.scale <= 0 and is_small else pa.float64()
    return np.asarray(column.cast(wanted).to_numpy(zero_copy_only=False))


def _type_of(dtype: np.dtype[Any]) -> pa.DataType:
    try:
        return pa.from_numpy_dtype(dtype)
    except pa.ArrowNotImplementedError:  # bfloat16 and its like, and complex numbers
        return pa.float64()


def _void(data: pa.Buffer | None, begin: int, width: int, rows: int) -> NDArray[Any]:
    if not rows or data is None or not width:
        return np.empty(rows, f"V{max(width, 1)}")
    return np.frombuffer(data, f"V{width}", count=rows, offset=begin)
