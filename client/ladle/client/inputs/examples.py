"""tf.Examples made of plain dicts of features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ladle.client.errors import InvalidInput
from ladle.protos import serving_pb, tensorflow_pb

Features: TypeAlias = "Mapping[str, ArrayLike]"
"""The features of one example by name: a number, text or bytes, or a list or array of them. Floats
go into a float_list, integers and booleans into an int64_list, text and bytes into a bytes_list;
an array's values go row by row, and an empty one stands for a feature that is missing."""

Examples: TypeAlias = "Features | Sequence[Features]"
"""One example, or several."""

_INT64_MAX = (1 << 63) - 1


def as_examples(examples: Examples) -> list[Features]:
    """Return one or several examples as a list.

    Raises:
        InvalidInput: There is none, or one is no dict.
    """
    listed = [examples] if isinstance(examples, Mapping) else list(examples)
    if not listed:
        raise InvalidInput("examples: expected at least one, got none")
    for index, example in enumerate(listed):
        if not isinstance(example, Mapping):
            raise InvalidInput(
                f"example {index}: expected a dict of features, got {type(example).__name__}"
            )
    return listed


def to_input(examples: Sequence[Features], context: Features | None = None) -> serving_pb.Input:
    """Return what Classify and its kin take; `context` holds the features that all share.

    Raises:
        InvalidInput: A feature's values are of no kind that an Example holds, or of several.
    """
    built = [to_example(features, f"example {index}") for index, features in enumerate(examples)]
    sent = serving_pb.Input()
    if context is None:
        sent.example_list.examples.extend(built)
    else:
        sent.example_list_with_context.examples.extend(built)
        sent.example_list_with_context.context.CopyFrom(to_example(context, "context"))
    return sent


def to_example(features: Features, about: str = "example") -> tensorflow_pb.Example:
    """Return the features as a tf.Example; errors begin with `about`.

    Raises:
        InvalidInput: A feature's values are of no kind that an Example holds, or of several.
    """
    example = tensorflow_pb.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        array = _flat(values, f'{about}: feature "{name}"')
        if not array.size:
            continue
        if array.dtype.kind == "O":
            feature.bytes_list.value.extend(array.tolist())
        elif array.dtype.kind == "f":
            feature.float_list.value.extend(array.tolist())
        else:
            feature.int64_list.value.extend(array.tolist())
    return example


def _flat(values: ArrayLike, about: str) -> NDArray[Any]:
    """Return the values in one dimension, as int64, float32 or an object array of bytes."""
    try:
        try:
            array = np.asarray(values)
        except UnicodeDecodeError:  # text and bytes in one list
            array = np.asarray(values, object)
        if array.dtype.kind in "SUO":
            # Only objects keep the trailing NULs of text, and keep text and bytes apart.
            array = np.asarray(values, object)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{about}: numpy can't make an array of it: {error}") from error
    flat = array.ravel()
    if flat.dtype.kind in "biu":
        if flat.size and int(flat.max()) > _INT64_MAX:
            raise InvalidInput(f"{about}: expected integers of 64 bits, got {int(flat.max())}")
        return flat.astype(np.int64)
    if flat.dtype.kind == "f" or flat.dtype.name.startswith(("float", "bfloat")):
        with np.errstate(over="ignore"):
            floats = flat.astype(np.float32)
        if np.any(np.isinf(floats) & np.isfinite(flat)):
            raise InvalidInput(f"{about}: a value is too large for the float32 of an Example")
        return floats
    if flat.dtype.kind == "O":
        return _as_bytes(flat, about)
    raise InvalidInput(f"{about}: expected numbers, text or bytes, got {flat.dtype}")


def _as_bytes(flat: NDArray[Any], about: str) -> NDArray[Any]:
    strings = np.empty(len(flat), object)
    for index, value in enumerate(flat.tolist()):
        if not isinstance(value, bytes | str):
            raise InvalidInput(
                f"{about}: expected all numbers, or all text or bytes, got {type(value).__name__}"
            )
        try:
            strings[index] = value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"{about}: expected text that UTF-8 can say, got {error.object[error.start]!a} in "
                "it"
            ) from None
    return strings
