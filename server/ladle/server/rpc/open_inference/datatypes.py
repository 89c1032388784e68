"""The protocol's datatypes, and the bytes of a tensor of each."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.server.core.errors import InvalidArgument

# Products of dimensions past this are no tensors that a request could hold.
_MOST_ELEMENTS = 1 << 48

_LENGTH_BYTES = 4
_LENGTH = struct.Struct("<I")


class Datatype(NamedTuple):
    """One datatype of the protocol."""

    name: str
    data_type: int
    """TensorFlow's number for it."""
    field: str | None
    """The field of InferTensorContents that has its values; None for raw bytes alone."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype; BYTES are objects that hold `bytes`."""
        return dtypes.to_numpy(self.data_type)


_ALL = (
    Datatype("BOOL", 10, "bool_contents"),
    Datatype("UINT8", 4, "uint_contents"),
    Datatype("UINT16", 17, "uint_contents"),
    Datatype("UINT32", 22, "uint_contents"),
    Datatype("UINT64", 23, "uint64_contents"),
    Datatype("INT8", 6, "int_contents"),
    Datatype("INT16", 5, "int_contents"),
    Datatype("INT32", 3, "int_contents"),
    Datatype("INT64", 9, "int64_contents"),
    Datatype("FP16", 19, None),
    Datatype("BF16", 14, None),
    Datatype("FP32", 1, "fp32_contents"),
    Datatype("FP64", 2, "fp64_contents"),
    Datatype("BYTES", dtypes.STRING, "bytes_contents"),
)
BY_NAME = {datatype.name: datatype for datatype in _ALL}
BY_NUMBER = {datatype.data_type: datatype for datatype in _ALL}


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
            f"invalid shape for input '{tensor.name}': shape [{_listed(shape)}] contains one or "
            "more invalid dimensions"
        )
    # As if no dimension were 0: numpy multiplies the others all the same.
    if math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise InvalidArgument(
            f"invalid shape for input '{tensor.name}': expected at most {_MOST_ELEMENTS} elements, "
            f"got [{_listed(shape)}]"
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


def to_raw(array: NDArray[Any]) -> bytes | memoryview:
    """Return an array's raw bytes, row by row; a view of the array where that is possible."""
    if array.dtype.hasobject:
        pieces: list[bytes] = []
        for value in array.ravel().tolist():
            pieces += (_LENGTH.pack(len(value)), value)
        return b"".join(pieces)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


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


def _strings(raw: bytes | memoryview, count: int, tensor: Tensor) -> NDArray[Any]:
    of = f"inference input '{tensor.name}' for model '{tensor.model}'"
    # Each element takes its length at least: no more of them can be in so many bytes.
    room = count if count <= len(raw) // _LENGTH_BYTES else 0
    array = np.empty(room, object)
    at = position = 0
    total = len(raw)
    while position < total:
        rest = total - position
        if rest < _LENGTH_BYTES:
            raise InvalidArgument(
                f"incomplete string length indicator for {of}, expecting {_LENGTH_BYTES} bytes "
                f"but only {rest} bytes available."
            )
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH_BYTES
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


def _listed(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape[:16])) + (",..." if len(shape) > 16 else "")
