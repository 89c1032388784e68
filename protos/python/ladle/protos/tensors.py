"""TensorProto to numpy and back, by the rules of TensorFlow's own reader.

`to_array` reads, `to_proto` writes a message, and `to_wire` writes the same bytes as pieces, for
messages whose tensors are too large to be copied more than once. Thread-safe: nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, wire
from ladle.protos.tensorflow_pb import TensorProto, TensorShapeProto

# TensorFlow's own limit (TensorShape::MaxDimensions).
MAX_RANK = 254
NUMPYS_MAX_RANK = 32 if np.__version__.startswith("1.") else 64
# A short value list is repeated up to the declared shape, so a message of 60 bytes can ask for
# terabytes; this much is granted, enough for a batch of constant images.
MAX_REPEATED_BYTES = 64 << 20

# The fields, by dtype, whose bytes on the wire are just those of a little-endian array: they are
# packed, of a fixed width, or (bool) of a width that never grows. Name and number.
_RAW_FIELDS = {
    "float32": ("float_val", 5),
    "float64": ("double_val", 6),
    "complex64": ("scomplex_val", 9),
    "complex128": ("dcomplex_val", 12),
    "bool": ("bool_val", 11),
}
# The fields of varints; what is not here goes into int_val.
_VARINT_FIELDS = {
    "int64": "int64_val",
    "uint32": "uint32_val",
    "uint64": "uint64_val",
    "float16": "half_val",
    "bfloat16": "half_val",
}
_FLOAT8_VAL = 18
_TENSOR_CONTENT = 4
_DTYPE = 1
_SHAPE = 2


class TensorError(ValueError):
    """A tensor that can't be read or written: what was expected, and what was given."""


def to_array(
    proto: TensorProto,
    content: memoryview | None = None,
    *,
    max_repeated_bytes: int = MAX_REPEATED_BYTES,
) -> NDArray[Any]:
    """Return the tensor's values, in its shape; strings as an object array of `bytes`.

    `tensor_content` comes back as a read-only view of the message's bytes, without a copy. A
    value list shorter than the shape repeats its last value (none at all: zeros), a longer one is
    cut off, as TensorFlow does. Nothing is allocated before the shape has been checked against
    the bytes that are there. `content` stands for a `tensor_content` that was lifted out.

    Raises:
        TensorError: An unknown dtype, a shape that is no shape, content of another length or
            with a bool that is neither 0 nor 1, or a short list whose repetition would take more
            than `max_repeated_bytes`.
    """
    try:
        dtype = dtypes.to_numpy(proto.dtype)
    except dtypes.UnsupportedDtype as error:
        raise TensorError(str(error)) from None
    shape, count = _checked_shape(proto.tensor_shape)
    # Read once: each access makes a new bytes object.
    data = proto.tensor_content if content is None else content
    if data:
        if dtype.kind == "O":
            return _strings_from_content(bytes(data), shape, count)
        if len(data) != count * dtype.itemsize:
            raise TensorError(
                f"tensor_content: expected {count * dtype.itemsize} bytes for "
                f"{dtypes.name(proto.dtype)} {list(shape)}, got {len(data)}"
            )
        if dtype.kind == "b":
            _check_bools(data)
        return np.frombuffer(data, dtype).reshape(shape)
    values = _listed_values(proto, dtype, count)
    if len(values) == count:
        return values.reshape(shape)
    return _repeat_last(values, shape, count, dtype, max_repeated_bytes)


def _check_bools(data: bytes | memoryview) -> None:
    """Refuse bytes other than 0 and 1: what code makes of such a bool differs from case to case."""
    largest = np.frombuffer(data, np.uint8).max()
    if largest > 1:
        raise TensorError(f"tensor_content: expected bytes 0 and 1 for bool, got {largest}")


def to_proto(array: NDArray[Any], *, typed: bool = False) -> TensorProto:
    """Return the array as a TensorProto: in `tensor_content`, or in its dtype's own value field.

    `typed` is how TensorFlow Serving answers unless told otherwise. Strings (`object` arrays of
    bytes or str, or numpy's S and U) always go into `string_val`.

    Raises:
        TensorError: TensorFlow has no such dtype, or an object array holds something else.
    """
    proto = TensorProto()
    proto.MergeFromString(wire.join(to_wire(array, typed=typed)))
    return proto


def to_wire(array: NDArray[Any], *, typed: bool = False) -> list[wire.Piece]:
    """Return the pieces of the message that `to_proto` returns; the array must outlive them."""
    head = raw_head(array.dtype, array.shape, typed=typed)
    if head is not None:
        data = np.ascontiguousarray(dtypes.zeros_and_ones(array))
        return [head, data.reshape(-1).view(np.uint8).data] if array.size else [head]
    if array.dtype.byteorder == ">":
        return to_wire(array.astype(array.dtype.newbyteorder("<")), typed=typed)
    data_type = dtypes.from_numpy(array.dtype)
    head = _head(data_type, array.shape)
    if data_type == dtypes.STRING:
        strings = TensorProto(string_val=as_bytes(array))
        return [head, strings.SerializeToString()]
    values = TensorProto()
    field = _VARINT_FIELDS.get(dtypes.name(data_type), "int_val")
    getattr(values, field).extend(_as_integers(array, field).ravel().tolist())
    return [head, values.SerializeToString()]


def raw_head(dtype: np.dtype[Any], shape: tuple[int, ...], *, typed: bool) -> bytes | None:
    """Return what comes before an array's own bytes in the message that `to_proto` returns.

    None where the values don't stand there as the array has them in memory.

    Raises:
        TensorError: TensorFlow has no such dtype.
    """
    try:
        data_type = dtypes.from_numpy(dtype)
    except dtypes.UnsupportedDtype as error:
        raise TensorError(str(error)) from None
    if data_type == dtypes.STRING or dtype.byteorder == ">":
        return None
    name = dtypes.name(data_type)
    number: int | None = _TENSOR_CONTENT
    if typed and name in _RAW_FIELDS:
        number = _RAW_FIELDS[name][1]
    elif typed:
        number = _FLOAT8_VAL if name.startswith("float8") else None
    if number is None:
        return None
    nbytes = math.prod(shape) * dtype.itemsize
    return _head(data_type, shape) + (wire.bytes_head(number, nbytes) if nbytes else b"")


def shape_of(shape: TensorShapeProto) -> tuple[int, ...] | None:
    """Return a declared shape, -1 standing for any size; None where even the rank is open."""
    return None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)


def describe(data_type: int, shape: Sequence[int] | None) -> str:
    """Return a dtype and a shape as error messages show them: `float32 [-1, 28, 28]`."""
    return f"{dtypes.name(data_type)} {'of any shape' if shape is None else list(shape)}"


def _head(data_type: int, shape: tuple[int, ...]) -> bytes:
    shape_field = wire.join(wire.bytes_field(_SHAPE, _shape_pieces(shape)))
    return wire.varint_field(_DTYPE, data_type) + shape_field


def _checked_shape(shape: TensorShapeProto) -> tuple[tuple[int, ...], int]:
    dims = shape.dim
    if len(dims) > MAX_RANK:
        raise TensorError(f"tensor_shape: expected at most {MAX_RANK} dimensions, got {len(dims)}")
    if len(dims) > NUMPYS_MAX_RANK:
        raise TensorError(
            f"tensor_shape: expected at most the {NUMPYS_MAX_RANK} dimensions that numpy has, "
            f"got {len(dims)}"
        )
    sizes = tuple([dim.size for dim in dims])
    if shape.unknown_rank:
        raise TensorError("tensor_shape: expected a known shape, got unknown_rank")
    if sizes and min(sizes) < 0:
        raise TensorError(f"tensor_shape: expected sizes of 0 or more, got {list(sizes)}")
    count = math.prod(sizes)
    # Even beside a zero the other sizes must multiply to something that numpy can address.
    if (count or math.prod([size for size in sizes if size])) >= 1 << 48:
        raise TensorError(f"tensor_shape: {list(sizes)} has more elements than any tensor can hold")
    return sizes, count


def _listed_values(proto: TensorProto, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Return the first `count` values of the typed field, or fewer, in one dimension."""
    if dtype.kind == "O":
        strings = np.empty(min(len(proto.string_val), count), object)
        strings[:] = proto.string_val[:count]
        return strings
    name = dtypes.name(proto.dtype)
    if name.startswith("float8"):
        return np.frombuffer(proto.float8_val[: count * dtype.itemsize], dtype)
    field = _RAW_FIELDS[name][0] if name in _RAW_FIELDS else _VARINT_FIELDS.get(name, "int_val")
    listed = getattr(proto, field)
    if not len(listed):
        return np.empty(0, dtype)
    # The container hands numpy its whole block at once; protobufs too old for that are walked in C.
    if dtype.kind == "c":
        parts = np.asarray(listed, dtype.type(0).real.dtype)
        return parts[: len(parts) // 2 * 2].view(dtype)[:count]
    values = np.asarray(listed)[:count]
    if field == "half_val":
        return values.astype(np.uint16).view(dtype)
    if dtype.names:
        return values.astype(dtype[0]).view(dtype)
    return values.astype(dtype, copy=False)


def _repeat_last(
    values: NDArray[Any],
    shape: tuple[int, ...],
    count: int,
    dtype: np.dtype[Any],
    max_repeated_bytes: int,
) -> NDArray[Any]:
    if count * dtype.itemsize > max_repeated_bytes:
        raise TensorError(
            f"{len(values)} values for shape {list(shape)}: repeating the last one would take "
            f"{count * dtype.itemsize} bytes, more than the {max_repeated_bytes} allowed"
        )
    repeated = np.zeros(count, dtype) if dtype.kind != "O" else np.full(count, b"", object)
    if len(values):
        repeated[: len(values)] = values
        repeated[len(values) :] = values[-1]
    return repeated.reshape(shape)


def _strings_from_content(content: bytes, shape: tuple[int, ...], count: int) -> NDArray[Any]:
    """Read TensorFlow's packed strings: all lengths as varints, then all bytes."""
    if count > len(content):
        raise TensorError(
            f"tensor_content: expected {count} string lengths, got only {len(content)} bytes"
        )
    strings = np.empty(count, object)
    lengths = []
    position = 0
    for _ in range(count):
        length, position = _read_varint(content, position)
        lengths.append(length)
    if sum(lengths) != len(content) - position:
        raise TensorError(
            f"tensor_content: expected {sum(lengths)} bytes of strings after their lengths, "
            f"got {len(content) - position}"
        )
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings.reshape(shape)


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise TensorError("tensor_content: a string's length is cut off or too long")


def _shape_pieces(shape: tuple[int, ...]) -> list[wire.Piece]:
    pieces: list[wire.Piece] = []
    for size in shape:
        # A zero is left out on the wire, as proto3 does with every default value.
        pieces += wire.bytes_field(2, [wire.varint_field(1, size)] if size else [])
    return pieces


def _as_integers(array: NDArray[Any], field: str) -> NDArray[Any]:
    if field == "half_val":
        return np.ascontiguousarray(array).view(np.uint16)
    if array.dtype.names:
        return np.ascontiguousarray(array).view(array.dtype[0])
    # The 2- and 4-bit integers of ml_dtypes have no tolist() of plain ints.
    return array.astype(np.int32) if array.dtype.kind == "V" else array


def as_bytes(array: NDArray[Any]) -> list[bytes]:
    """Return the elements of an array of strings, row by row; text becomes UTF-8.

    Raises:
        TensorError: An element is neither bytes nor text, or text that UTF-8 can't say.
    """
    values: list[Any] = array.ravel().tolist()
    for value in values:
        if not isinstance(value, bytes | str):
            raise TensorError(f"object array: expected bytes or str, got {type(value).__name__}")
    try:
        return [value.encode() if isinstance(value, str) else value for value in values]
    except UnicodeEncodeError as error:  # half of a pair, as where text was cut amid an emoji
        raise TensorError(
            f"text: expected what UTF-8 can say, got {error.object[error.start]!a} in it"
        ) from None
