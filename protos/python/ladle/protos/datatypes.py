"""The Open Inference Protocol's datatypes, and a tensor's bytes as that protocol has them."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.wire import Piece

LENGTH = struct.Struct("<I")
"""What stands before each element of BYTES: how many bytes the element has."""


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


def to_raw(array: NDArray[Any]) -> Piece:
    """Return an array's raw bytes, row by row; mostly a view of the array.

    Arrays of objects hold `bytes`.
    """
    if array.dtype.hasobject:
        pieces: list[bytes] = []
        for value in array.ravel().tolist():
            pieces += (LENGTH.pack(len(value)), value)
        return b"".join(pieces)
    return np.ascontiguousarray(dtypes.zeros_and_ones(array)).reshape(-1).view(np.uint8).data
