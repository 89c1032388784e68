"""JSON values to arrays and back, by the rules of upstream's REST interface. Pure functions."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import InvalidArgument, Unimplemented

Json: TypeAlias = Any
"""What JSON text becomes: dict, list, str, int, float, bool or None."""

# numpy's own limit was 32 for long, and no TensorFlow kernel takes as many.
_MAX_RANK = 32

_FLOATS = {"float32", "float64"}
_INTEGERS = {"int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"}
_LEAVES: dict[str, frozenset[type]] = {
    **{name: frozenset((int, float)) for name in _FLOATS},
    **{name: frozenset((int,)) for name in _INTEGERS},
    "bool": frozenset((bool,)),
    "string": frozenset((str, dict)),
}
_B64 = "b64"
_JSON_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def to_array(value: Json, data_type: int, alias: str) -> NDArray[Any]:
    """Return a JSON value as an array of a DataType; its shape is its nesting.

    Strings become `bytes` in an object array; `{"b64": ...}` stands for the bytes that it encodes.

    Raises:
        InvalidArgument: It is ragged, or holds what the dtype has no place for.
        Unimplemented: JSON has no form for the dtype.
    """
    name = dtypes.name(data_type)
    expected = _LEAVES.get(name)
    if expected is None:
        raise Unimplemented(
            f"input {alias!r} is a tensor of {name}, which JSON has no form for: use gRPC"
        )
    leaves, shape = _flattened(value, alias)
    if wrong := set(map(type, leaves)) - expected:
        found = ", ".join(sorted(_JSON_NAMES[kind] for kind in wrong))
        raise InvalidArgument(
            f"input {alias!r}: JSON Value is not of expected type: {name}, it holds {found}"
        )
    if name == "string":
        array = np.empty(len(leaves), object)
        try:
            array[:] = [as_bytes(leaf) for leaf in leaves]
        except InvalidArgument as error:
            raise InvalidArgument(f"input {alias!r}: {error.message}") from None
    else:
        array = _numbers(leaves, np.dtype(name), alias)
    return array.reshape(shape)


def _flattened(value: Json, alias: str) -> tuple[list[Any], tuple[int, ...]]:
    """Return what is in nested lists, in order, and their shape."""
    shape: list[int] = []
    level = [value]
    # One pass for each dimension, each at the speed of C.
    while list in (kinds := set(map(type, level))):
        sizes = set(map(len, level)) if len(kinds) == 1 else set()
        if len(sizes) != 1:
            raise InvalidArgument(
                f"input {alias!r}: expected lists of equal size and depth at each level, "
                f"got others at level {len(shape)}"
            )
        if len(shape) == _MAX_RANK:
            raise InvalidArgument(f"input {alias!r}: expected {_MAX_RANK} dimensions at most")
        shape.append(sizes.pop())
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _numbers(leaves: list[Any], dtype: np.dtype[Any], alias: str) -> NDArray[Any]:
    try:
        if dtype.kind in "iu":
            _check_range(leaves, dtype, alias)
        # What a float32 can't hold is infinite in it.
        with np.errstate(over="ignore"):
            return np.array(leaves, dtype)
    except OverflowError:
        raise InvalidArgument(
            f"input {alias!r}: an integer is out of the range of {dtype.name}"
        ) from None


def _check_range(leaves: list[int], dtype: np.dtype[Any], alias: str) -> None:
    limits = np.iinfo(dtype)
    for outermost in (min(leaves, default=0), max(leaves, default=0)):
        if not limits.min <= outermost <= limits.max:
            raise InvalidArgument(
                f"input {alias!r}: {outermost} is out of the range of {dtype.name}"
            )


def is_b64(value: Json) -> bool:
    """Whether a value is `{"b64": "..."}`, which stands for bytes."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_B64), str)


def as_bytes(value: str | dict[str, Any]) -> bytes:
    """Return a string's bytes as they were sent, or those that `{"b64": "..."}` stands for.

    In base64 padding may be left out, and white space is passed over.

    Raises:
        InvalidArgument: It is another object, no base64, or half of a surrogate pair.
    """
    if isinstance(value, str):
        try:
            return value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise InvalidArgument(
                "a string holds half of a surrogate pair, which is no character"
            ) from None
    if not is_b64(value):
        raise InvalidArgument('expected a string or {"b64": "<base64>"}, got an object')
    text = "".join(value[_B64].split()).rstrip("=")
    try:
        if not re.fullmatch("[A-Za-z0-9+/]*", text):
            raise ValueError
        return binascii.a2b_base64(text + "=" * (-len(text) % 4))
    except ValueError:
        raise InvalidArgument("unable to decode base64") from None


def to_json(array: NDArray[Any], alias: str) -> bytes:
    """Return an array as JSON text: nested lists, or a bare value for no dimensions.

    Floats are the shortest text that reads as the same number, `NaN`, `Infinity` or `-Infinity`.
    Bytes are text, or, where `alias` ends in `_bytes`, `{"b64": ...}`.

    Raises:
        InvalidArgument: JSON has no form for the dtype.
    """
    check_output(array, alias)
    if array.dtype.kind == "O":
        return orjson.dumps(_texts(array, alias))
    if not array.size:
        return orjson.dumps(array.tolist())
    if not array.ndim:
        return to_json(array.reshape(1), alias)[1:-1]
    text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind == "f" and b"null" in text:
        # orjson's word for what is no number; there is no other null among numbers.
        tokens = _non_finite(array)
        text = re.sub(b"null", lambda _: next(tokens), text)
    return text


def rows_of(array: NDArray[Any], alias: str) -> list[Any]:
    """Return each row in a form that `orjson.dumps` takes with OPT_SERIALIZE_NUMPY.

    Raises:
        InvalidArgument: JSON has no form for the dtype.
    """
    check_output(array, alias)
    if array.dtype.kind == "O":
        return list(_texts(array, alias))
    if not array.size or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return [orjson.Fragment(to_json(np.asarray(row), alias)) for row in array]
    return list(np.ascontiguousarray(array))


def check_output(array: NDArray[Any], alias: str) -> None:
    """Refuse an output that JSON has no form for.

    Raises:
        InvalidArgument: It is one.
    """
    name = dtypes.name(dtypes.from_numpy(array.dtype))
    if name not in _LEAVES:
        raise InvalidArgument(
            f"output {alias!r} is a tensor of {name}, which JSON has no form for: use gRPC"
        )


def _texts(array: NDArray[Any], alias: str) -> Any:
    """Return nested lists of what stands for the array's bytes."""
    flat = np.empty(array.size, object)
    if alias.endswith("_bytes"):
        flat[:] = [{_B64: binascii.b2a_base64(v, newline=False).decode()} for v in array.flat]
    else:
        # JSON has no form for bytes that are no text.
        flat[:] = [value.decode(errors="replace") for value in array.flat]
    return flat.reshape(array.shape).tolist()


def _non_finite(array: NDArray[Any]) -> Iterator[bytes]:
    for value in array[~np.isfinite(array)].tolist():
        yield b"NaN" if value != value else b"Infinity" if value > 0 else b"-Infinity"
