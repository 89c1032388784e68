"""TensorFlow's DataType numbers and the numpy dtypes that stand for them."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Each DataType that has a fixed width, by its name without DT_, which is also numpy's or
# ml_dtypes' name unless _NUMPY_NAMES says otherwise.
_NUMBERS = {
    "FLOAT": 1,
    "DOUBLE": 2,
    "INT32": 3,
    "UINT8": 4,
    "INT16": 5,
    "INT8": 6,
    "COMPLEX64": 8,
    "INT64": 9,
    "BOOL": 10,
    "QINT8": 11,
    "QUINT8": 12,
    "QINT32": 13,
    "BFLOAT16": 14,
    "QINT16": 15,
    "QUINT16": 16,
    "UINT16": 17,
    "COMPLEX128": 18,
    "HALF": 19,
    "UINT32": 22,
    "UINT64": 23,
    "FLOAT8_E5M2": 24,
    "FLOAT8_E4M3FN": 25,
    "FLOAT8_E4M3FNUZ": 26,
    "FLOAT8_E4M3B11FNUZ": 27,
    "FLOAT8_E5M2FNUZ": 28,
    "INT4": 29,
    "UINT4": 30,
    "INT2": 31,
    "UINT2": 32,
}
STRING = 7
_OTHERS = {0: "INVALID", STRING: "STRING", 20: "RESOURCE", 21: "VARIANT"}
_NAMES = {number: name for name, number in _NUMBERS.items()} | _OTHERS
_REF_OFFSET = 100

_NUMPY_NAMES = {"FLOAT": "float32", "DOUBLE": "float64", "HALF": "float16"}
_QUANTIZED = {"QINT8": "i1", "QUINT8": "u1", "QINT16": "<i2", "QUINT16": "<u2", "QINT32": "<i4"}
_ML_DTYPES = {"BFLOAT16", "INT4", "UINT4", "INT2", "UINT2"} | {
    name for name in _NUMBERS if name.startswith("FLOAT8")
}


class UnsupportedDtype(ValueError):
    """A dtype that no tensor on the wire can have here."""


def name(data_type: int) -> str:
    """Return a DataType's name as numpy spells it, `float32`; `dtype 99` for a number unknown."""
    upstream = _NAMES.get(without_ref(data_type))
    if upstream is None:
        return f"dtype {data_type}"
    return _NUMPY_NAMES.get(upstream, upstream.lower())


def without_ref(data_type: int) -> int:
    """Return the DataType behind a reference type, which TF1 variables declare (DT_FLOAT_REF)."""
    return data_type - _REF_OFFSET if data_type > _REF_OFFSET else data_type


@cache
def to_numpy(data_type: int) -> np.dtype[Any]:
    """Return the numpy dtype of a DataType; strings are `object`, holding `bytes`.

    The quantised types are the one-field structured dtypes that TensorFlow itself uses, so that
    an array keeps its type on a way there and back.

    Raises:
        UnsupportedDtype: A resource, a variant, an unknown number, or a type of ml_dtypes where
            that package is not installed.
    """
    if data_type == STRING:
        return np.dtype(object)
    upstream = _NAMES.get(data_type)
    if upstream is None or upstream not in _NUMBERS:
        raise UnsupportedDtype(f"{name(data_type)} is not a dtype that a tensor can be read from")
    if upstream in _QUANTIZED:
        return np.dtype([(upstream.lower(), _QUANTIZED[upstream])])
    if upstream not in _ML_DTYPES:
        return np.dtype(_NUMPY_NAMES.get(upstream, upstream.lower()))
    try:
        extended: np.dtype[Any] = np.dtype(
            getattr(importlib.import_module("ml_dtypes"), upstream.lower())
        )
    except (ImportError, AttributeError):
        raise UnsupportedDtype(
            f"{name(data_type)} needs the package ml_dtypes: pip install 'ladle[dtypes]'"
        ) from None
    return extended


def from_numpy(dtype: np.dtype[Any]) -> int:
    """Return the DataType of a numpy dtype.

    Raises:
        UnsupportedDtype: TensorFlow has no such type (dates, long doubles, records).
    """
    if dtype.kind in "OSU":
        return STRING
    # ml_dtypes' types are of kind V too, and bring a name; a quantised one is a one-field record.
    names = dtype.names
    key = names[0] if names and len(names) == 1 else dtype.newbyteorder("=").name
    try:
        return _DATA_TYPES[key]
    except KeyError:
        raise UnsupportedDtype(f"numpy dtype {dtype} has no counterpart in TensorFlow") from None


_DATA_TYPES = {
    _NUMPY_NAMES.get(upstream, upstream.lower()): number for upstream, number in _NUMBERS.items()
}


def zeros_and_ones(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array; of bools one whose bytes are 0 and 1.

    numpy takes any other byte for true as well, such as those of a mask that was read from a file.
    """
    if array.dtype.kind != "b":
        return array
    truth: NDArray[Any] = array.view(np.uint8) != 0
    return truth
