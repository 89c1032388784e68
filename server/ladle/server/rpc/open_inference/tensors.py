"""Arrays of tensors as requests bring them, raw or typed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.datatypes import BY_NAME, LENGTH, Datatype
from ladle.server.core.errors import InvalidArgument

# Products of dimensions past this are no tensors that a request could hold.
_MOST_ELEMENTS = 1 << 48


def _numbers() -> Iterator[tuple[str, np.dtype[Any]]]:
    for datatype in BY_NAME.values():
        with suppress(dtypes.UnsupportedDtype):  # bfloat16, where its package is not installed
            if datatype.name not in ("BOOL", "BYTES"):
                yield datatype.name, datatype.dtype


_NUMBERS = dict(_numbers())


class Tensor(NamedTuple):
    """What messages call a tensor: its name, and the model's name as it was asked for."""

    name: str
    model: str


def elements(shape: Sequence[int], tensor: Tensor) -> int:
    """Return how many elements a shape has.

    Raises:
        InvalidArgument: A dimension is negative, or there are too many elements.
    """
    if any(size < 0 for size in shape):
        raise InvalidArgument(
            f"invalid shape for input '{tensor.name}': shape [{shown(shape)}] contains one or "
            "more invalid dimensions"
        )
    # As if no dimension were 0: numpy multiplies the others all the same.
    if math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise InvalidArgument(
            f"invalid shape for input '{tensor.name}': expected at most {_MOST_ELEMENTS} elements, "
            f"got [{shown(shape)}]"
        )
    if len(shape) > tensors.NUMPYS_MAX_RANK:
        raise InvalidArgument(
            f"invalid shape for input '{tensor.name}': expected at most {tensors.NUMPYS_MAX_RANK} "
            f"dimensions, got {len(shape)}"
        )
    return math.prod(shape)


def from_raw(
    datatype: Datatype, shape: tuple[int, ...], raw: bytes | memoryview, tensor: Tensor
) -> NDArray[Any]:
    """Return the array of a tensor's raw bytes: a view of them, except for BYTES and BOOL.

    Raises:
        InvalidArgument: The bytes are not those of such a tensor.
    """
    array = fixed_from_raw(datatype, shape, raw)
    if array is not None:
        return array
    count = elements(shape, tensor)
    if datatype.data_type == dtypes.STRING:
        return _strings(raw, count, tensor).reshape(shape)
    expected = count * datatype.dtype.itemsize
    if len(raw) != expected:
        raise size_mismatch(tensor, expected, len(raw))
    if datatype.name == "BOOL":
        # Any byte other than 0 is true; TensorFlow must never see another than 1.
        truth: NDArray[np.bool_] = np.frombuffer(raw, np.uint8) != 0
        return truth.reshape(shape)
    return np.frombuffer(raw, datatype.dtype).reshape(shape)


def fixed_from_raw(
    datatype: Datatype, shape: tuple[int, ...], raw: bytes | memoryview
) -> NDArray[Any] | None:
    """Return a view of a number's raw bytes; None where there is more to be looked at."""
    dtype = _NUMBERS.get(datatype.name)
    if dtype is None or not raw or len(shape) > tensors.NUMPYS_MAX_RANK:
        return None
    # With bytes, and none of its sizes less than 0, the shape has no other than these.
    if math.prod(shape) * dtype.itemsize != len(raw) or (shape and min(shape) < 0):
        return None
    return np.frombuffer(raw, dtype).reshape(shape)


def from_values(
    datatype: Datatype, shape: tuple[int, ...], values: Any, tensor: Tensor
) -> NDArray[Any]:
    """Return the array of a typed field's values.

    Raises:
        InvalidArgument: There are too many or too few, or one is out of the datatype's range.
    """
    count = elements(shape, tensor)
    if datatype.data_type == dtypes.STRING:
        if len(values) != count:
            raise InvalidArgument(
                f"expected {count} string elements for inference input '{tensor.name}' for model "
                f"'{tensor.model}', got {len(values)}"
            )
        array = np.empty(count, object)
        array[:] = list(values)
        return array.reshape(shape)
    width = datatype.dtype.itemsize
    if len(values) != count:
        raise size_mismatch(tensor, count * width, len(values) * width)
    wide = np.asarray(values)
    if datatype.dtype.kind in "iu" and count:
        limits = np.iinfo(datatype.dtype)
        if int(wide.min()) < limits.min or int(wide.max()) > limits.max:
            raise InvalidArgument(
                f"input '{tensor.name}' for model '{tensor.model}': expected values of "
                f"{datatype.name}, {limits.min} to {limits.max}, "
                f"got {int(wide.min())} to {int(wide.max())}"
            )
    return wide.astype(datatype.dtype).reshape(shape)


def size_mismatch(tensor: Tensor, expected: int, given: int) -> InvalidArgument:
    """Return the error of an input with another number of bytes than its shape has."""
    return InvalidArgument(
        f"input byte size mismatch for input '{tensor.name}' for model '{tensor.model}'. "
        f"Expected {expected}, got {given}"
    )


def shown(shape: Sequence[int]) -> str:
    """Return a shape as messages show it; the caller's may have any number of dimensions."""
    return ",".join(map(str, shape[:16])) + (",..." if len(shape) > 16 else "")


def _strings(raw: bytes | memoryview, count: int, tensor: Tensor) -> NDArray[Any]:
    of = f"inference input '{tensor.name}' for model '{tensor.model}'"
    # Each element takes its length at least: no more of them can be in so many bytes.
    room = count if count <= len(raw) // LENGTH.size else 0
    array = np.empty(room, object)
    at = position = 0
    total = len(raw)
    while position < total:
        rest = total - position
        if rest < LENGTH.size:
            raise InvalidArgument(
                f"incomplete string length indicator for {of}, expecting {LENGTH.size} bytes "
                f"but only {rest} bytes available."
            )
        (length,) = LENGTH.unpack_from(raw, position)
        position += LENGTH.size
        if length > total - position:
            raise InvalidArgument(
                f"incomplete string data for {of}, expecting string of length {length} but only "
                f"{total - position} bytes available."
            )
        if at == count:
            raise InvalidArgument(
                f"unexpected number of string elements {at + 1} for {of}, expecting {count}"
            )
        if at < room:
            array[at] = bytes(raw[position : position + length])
        position += length
        at += 1
    if at != count:
        raise InvalidArgument(f"expected {count} string elements for {of}, got {at}")
    return array
