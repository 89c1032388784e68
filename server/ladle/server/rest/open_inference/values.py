"""A tensor's values in JSON, in both directions. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.datatypes import Datatype
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json.tensors import Json, as_bytes
from ladle.server.rpc.open_inference.tensors import Tensor, elements, shown

_MAX_DEPTH = 100  # Triton's bound
_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def to_array(value: Json, datatype: Datatype, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return the array of an input's `data`.

    How the values are nested does not count: they are in row-major order.

    Args:
        value: what `data` holds: values in lists, or one value.
        datatype: the input's.
        shape: the input's.
        name: the input's.

    Raises:
        InvalidArgument: There are too many or too few values, or one is none of the datatype's.
    """
    count = elements(shape, Tensor(name, ""))
    leaves = _leaves(value, name)
    if len(leaves) != count:
        raise InvalidArgument(
            f"Unable to parse 'data': Shape does not match true shape of 'data' field: input "
            f"'{name}' of shape [{shown(shape)}] takes {count} values, got {len(leaves)}"
        )
    if datatype.data_type == dtypes.STRING:
        array = np.empty(count, object)
        try:
            array[:] = [as_bytes(_text(leaf)) for leaf in leaves]
        except InvalidArgument as error:
            raise _wrong(name, datatype, error.message) from None
        return array.reshape(shape)
    if datatype.name == "BOOL":
        return _bools(leaves, name, datatype).reshape(shape)
    if datatype.dtype.kind in "iu":
        return _integers(leaves, name, datatype).reshape(shape)
    return _floats(leaves, name, datatype).reshape(shape)


def to_json(array: NDArray[Any], name: str) -> bytes:
    """Return an output's values as JSON text: one flat list.

    Floats are the shortest text that reads as the same number; what is not finite is a string.

    Raises:
        InvalidArgument: It holds bytes that are no text.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.hasobject:
        try:
            return orjson.dumps([value.decode() for value in flat.tolist()])
        except UnicodeDecodeError:
            raise InvalidArgument(
                f"output '{name}' holds bytes that are not UTF-8: ask for binary data"
            ) from None
    if not flat.size:
        return b"[]"
    if flat.dtype.kind not in "biu" and flat.dtype.itemsize == 2:  # float16 and bfloat16
        flat = flat.astype(np.float32)
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if flat.dtype.kind == "f" and b"null" in text:
        # orjson's word for what is no number; there is no other null among numbers.
        tokens = _not_finite(flat)
        text = re.sub(b"null", lambda _: next(tokens), text)
    return text


def _leaves(value: Json, name: str) -> list[Any]:
    """Return what is in nested lists, in order; the time is linear in how much there is."""
    level = [value]
    for depth in range(_MAX_DEPTH):
        kinds = set(map(type, level))
        if list not in kinds:
            return level
        if len(kinds) > 1:
            return list(_unnested(level, _MAX_DEPTH - depth, name))
        level = list(chain.from_iterable(level))
    return list(_unnested(level, 0, name))


def _unnested(level: list[Any], most: int, name: str) -> Iterator[Any]:
    """Yield what is in lists of any form, at most `most` deep."""
    stack = [iter(level)]
    while stack:
        for item in stack[-1]:
            if type(item) is list:
                if len(stack) > most:
                    raise InvalidArgument(
                        f"Unable to parse 'data': input '{name}' is nested more than "
                        f"{_MAX_DEPTH} deep"
                    )
                stack.append(iter(item))
                break
            yield item
        else:
            stack.pop()


def _text(leaf: Any) -> str | dict[str, Any]:
    if isinstance(leaf, str | dict):
        return leaf
    raise InvalidArgument(f"expected strings, got {_shown(leaf)}")


def _bools(leaves: list[Any], name: str, datatype: Datatype) -> NDArray[Any]:
    for leaf in leaves:
        if not (leaf is True or leaf is False or (type(leaf) is int and leaf in (0, 1))):
            raise _wrong(name, datatype, f"expected true or false, got {_shown(leaf)}")
    return np.array(leaves, bool)


def _integers(leaves: list[Any], name: str, datatype: Datatype) -> NDArray[Any]:
    if set(map(type, leaves)) - {int}:
        wrong = next(leaf for leaf in leaves if type(leaf) is not int)
        raise _wrong(name, datatype, f"expected integers, got {_shown(wrong)}")
    limits = np.iinfo(datatype.dtype)
    for outermost in (min(leaves, default=0), max(leaves, default=0)):
        if not limits.min <= outermost <= limits.max:
            raise _wrong(name, datatype, f"{outermost} is out of its range")
    return np.array(leaves, datatype.dtype)


def _floats(leaves: list[Any], name: str, datatype: Datatype) -> NDArray[Any]:
    kinds = set(map(type, leaves))
    if kinds - {int, float}:
        leaves = [_WORDS.get(leaf, leaf) if type(leaf) is str else leaf for leaf in leaves]
        wrong = [leaf for leaf in leaves if type(leaf) not in (int, float)]
        if wrong:
            raise _wrong(name, datatype, f"expected numbers, got {_shown(wrong[0])}")
    # What is too large for the datatype is infinite in it.
    with np.errstate(over="ignore"):
        try:
            return np.array(leaves, np.float64).astype(datatype.dtype)
        except OverflowError:
            raise _wrong(name, datatype, "an integer is out of its range") from None


def _wrong(name: str, datatype: Datatype, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"Unable to parse 'data': input '{name}' of datatype {datatype.name}: {what}"
    )


def _shown(leaf: Any) -> str:
    """Return a value as a message shows it: the caller's may be long, and no UTF-8."""
    if isinstance(leaf, dict | list):
        return "an object" if isinstance(leaf, dict) else "a list"
    return json.dumps(leaf[:40] if isinstance(leaf, str) else leaf)


def _not_finite(array: NDArray[Any]) -> Iterator[bytes]:
    for value in array[~np.isfinite(array)].tolist():
        yield b'"NaN"' if value != value else b'"Infinity"' if value > 0 else b'"-Infinity"'
