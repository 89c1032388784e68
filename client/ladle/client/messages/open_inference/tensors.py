"""The tensors of answers of the Open Inference Protocol as numpy arrays: raw bytes, or values.

Pure functions, safe in any thread. Nothing is allocated before the shape was compared with what is
there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidAnswer
from ladle.protos import dtypes
from ladle.protos.datatypes import BY_NAME, LENGTH, Datatype
from ladle.protos.inference_pb import InferTensorContents, ModelInferRequest, ModelInferResponse
from ladle.protos.tensors import NUMPYS_MAX_RANK

# numpy takes no shape with a product past this, even where a dimension is 0.
_MOST_ELEMENTS = 1 << 48


def read_tensor(
    tensor: ModelInferResponse.InferOutputTensor | ModelInferRequest.InferInputTensor,
    raw: bytes,
    what: str,
) -> NDArray[Any]:
    """Return a tensor as an array: a read-only view of `raw`, or its typed contents copied.

    Servers answer in one form or the other, whatever form the request had. Strings are objects
    that hold `bytes`. `what` begins the messages of errors.

    Raises:
        InvalidAnswer: The datatype is unknown, the shape is none, or what is there is not of them.
    """
    datatype = BY_NAME.get(tensor.datatype)
    if datatype is None:
        raise InvalidAnswer(f'{what}: expected a datatype of the protocol, got "{tensor.datatype}"')
    try:
        dtype = datatype.dtype
    except dtypes.UnsupportedDtype as error:
        raise InvalidAnswer(f"{what}: {error}") from None
    shape = tuple(tensor.shape)
    count = _elements(shape, what)
    contents = tensor.contents
    if raw or not _has_values(contents):
        array = _from_raw(datatype, dtype, count, raw, what)
    else:
        array = _from_values(datatype, dtype, count, contents, what)
    return array.reshape(shape)


def _elements(shape: tuple[int, ...], what: str) -> int:
    is_shape = all(size >= 0 for size in shape) and len(shape) <= NUMPYS_MAX_RANK
    if not is_shape or math.prod(max(size, 1) for size in shape) > _MOST_ELEMENTS:
        raise InvalidAnswer(f"{what}: expected a shape, got {list(shape[:NUMPYS_MAX_RANK])}")
    return math.prod(shape)


def _has_values(contents: InferTensorContents) -> bool:
    return any(len(values) for _, values in contents.ListFields())


def _from_raw(
    datatype: Datatype, dtype: np.dtype[Any], count: int, raw: bytes, what: str
) -> NDArray[Any]:
    if dtype.hasobject:
        return _strings(raw, count, what)
    if len(raw) != count * dtype.itemsize:
        raise InvalidAnswer(
            f"{what}: expected {count * dtype.itemsize} bytes for {count} elements of "
            f"{datatype.name}, got {len(raw)}"
        )
    if datatype.name == "BOOL":  # any byte other than 0 is true
        truth: NDArray[np.bool_] = np.frombuffer(raw, np.uint8) != 0
        return truth
    return np.frombuffer(raw, dtype)


def _strings(raw: bytes, count: int, what: str) -> NDArray[Any]:
    if count > len(raw) // LENGTH.size:  # each element takes its length at least
        raise InvalidAnswer(f"{what}: expected {count} strings, got {len(raw)} bytes")
    array = np.empty(count, object)
    position = 0
    for index in range(count):
        begin = position + LENGTH.size
        if begin > len(raw):
            raise InvalidAnswer(f"{what}: expected {count} strings, got only {index}")
        end = begin + LENGTH.unpack_from(raw, position)[0]
        if end > len(raw):
            raise InvalidAnswer(
                f"{what}: string {index} of {count}: expected {end - begin} bytes, "
                f"got {len(raw) - begin}"
            )
        array[index] = raw[begin:end]
        position = end
    if position != len(raw):
        raise InvalidAnswer(f"{what}: {len(raw) - position} bytes follow its {count} strings")
    return array


def _from_values(
    datatype: Datatype, dtype: np.dtype[Any], count: int, contents: InferTensorContents, what: str
) -> NDArray[Any]:
    named = {field.name: values for field, values in contents.ListFields()}
    values: Sequence[Any] = named.pop(datatype.field, ()) if datatype.field else ()
    if named:
        expected = datatype.field or "raw contents"
        raise InvalidAnswer(
            f"{what}: expected {expected} for {datatype.name}, got {', '.join(sorted(named))}"
        )
    if len(values) != count:
        raise InvalidAnswer(
            f"{what}: expected {count} values of {datatype.name}, got {len(values)}"
        )
    if dtype.hasobject:
        strings = np.empty(count, object)
        strings[:] = list(values)
        return strings
    wide = np.asarray(values)
    if dtype.kind in "iu" and count:
        limits = np.iinfo(dtype)
        if int(wide.min()) < limits.min or int(wide.max()) > limits.max:
            raise InvalidAnswer(
                f"{what}: expected values of {datatype.name}, {limits.min} to {limits.max}, "
                f"got {int(wide.min())} to {int(wide.max())}"
            )
    return wide.astype(dtype)
