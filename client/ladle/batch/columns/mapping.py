"""Which columns become which inputs of the model, by their names or by `--map`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from ladle.batch.errors import BatchError
from ladle.batch.readers.images import BYTES, PATH
from ladle.client.models import TensorSpec
from ladle.protos import dtypes

_DTYPES = {
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64",
}  # fmt: skip


class ColumnRule(NamedTuple):
    """One `--map`: `TENSOR=COLUMN[,COLUMN...][:DTYPE]`."""

    tensor: str
    columns: tuple[str, ...]
    """Names or patterns; the values of several columns become the last dimension."""
    dtype: str | None
    """The dtype that the values become; None for the file's or the model's."""


class ColumnSource(NamedTuple):
    """The columns of one input of the model."""

    columns: tuple[str, ...]
    dtype: np.dtype[Any] | None
    """The dtype that numbers become; None for the dtype that they have."""
    spec: TensorSpec | None
    """The input as the model declares it; None where the server doesn't describe the model."""


def parse_rule(text: str) -> ColumnRule:
    """Read a `--map`.

    Raises:
        ValueError: The text has another form.
    """
    tensor, equals, rest = text.partition("=")
    columns, _, dtype = rest.rpartition(":")
    if dtype not in _DTYPES:
        columns, dtype = rest, ""
    names = tuple(name for name in columns.split(",") if name)
    if not (tensor and equals and names):
        raise ValueError(f"expected TENSOR=COLUMN[,COLUMN...][:DTYPE], got {text!r}")
    return ColumnRule(tensor, names, dtype or None)


def bind(
    inputs: Mapping[str, TensorSpec],
    optional: frozenset[str],
    columns: Sequence[str],
    rules: Sequence[ColumnRule],
    *,
    is_text: bool,
    are_images: bool,
    is_normalised: bool,
    of_card: tuple[str, ...] = (),
) -> dict[str, ColumnSource]:
    """Return the source of each input.

    A rule comes first, then a column with the input's name, then the only column for the only
    input. `inputs` are the model's, by name. They are empty where the server doesn't describe the
    model; then each input needs a rule. `is_normalised` says that the model records how raw pixels
    become its floats. Numbers without a dtype could then be either, and need a rule with one.
    `of_card` are the columns that the model was trained on, in its order. They become the only
    input, in that order, where the file has all of them.

    Raises:
        BatchError: An input has no column, or a rule names no input.
    """
    by_tensor = {rule.tensor: rule for rule in rules}
    if len(by_tensor) < len(rules):
        raise BatchError("--map: expected each tensor once")
    for name in by_tensor:
        if inputs and name not in inputs:
            raise BatchError(f'--map: the model has no input "{name}"; it has {_listing(inputs)}')
    if not inputs and not rules:
        raise BatchError(
            "the server doesn't tell the model's inputs; name them: --map TENSOR=COLUMN"
        )
    sources = {}
    for name in inputs or by_tensor:
        spec = inputs.get(name)
        rule = by_tensor.get(name)
        if rule is not None:
            found = _in_order(_matching(rule, columns), of_card)
        elif are_images and len(inputs) == 1:
            is_string = spec is not None and spec.data_type == dtypes.STRING
            found = (BYTES,) if is_string else (PATH,)
        elif name in columns:
            found = (name,)
        elif len(inputs) == 1 and of_card:
            found = _all_of(of_card, columns)
        elif len(inputs) == 1 and len(columns) == 1:
            found = tuple(columns)
        elif name in optional:
            continue
        else:
            raise BatchError(
                f'input "{name}" of the model, {spec}: no column has that name; the columns are '
                f"{_some(columns)}; say which it is: --map {name}=COLUMN"
            )
        dtype = _dtype(name, rule, spec, found, is_text=is_text, is_normalised=is_normalised)
        sources[name] = ColumnSource(found, dtype, spec)
    return sources


def _in_order(found: tuple[str, ...], of_card: tuple[str, ...]) -> tuple[str, ...]:
    return of_card if of_card and set(of_card) <= set(found) else found


def _all_of(of_card: tuple[str, ...], columns: Sequence[str]) -> tuple[str, ...]:
    missing = [name for name in of_card if name not in columns]
    if missing:
        raise BatchError(
            f"the model was trained on columns that the input has not: {_some(missing)}; the"
            f" columns are {_some(columns)}"
        )
    return of_card


def matching(patterns: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that match patterns, in the order of the patterns.

    Raises:
        BatchError: No column matches a pattern.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        # The name `a[0]` is also a pattern, which matches `a0` and not itself.
        names = [pattern] if pattern in columns else _expand(pattern, columns)
        if not names:
            raise BatchError(f'the input has no column "{pattern}"; it has {_some(columns)}')
        found |= dict.fromkeys(names)
    return tuple(found)


def _matching(rule: ColumnRule, columns: Sequence[str]) -> tuple[str, ...]:
    try:
        return matching(rule.columns, columns)
    except BatchError as error:
        raise BatchError(f"--map {rule.tensor}: {error}") from None


def _expand(pattern: str, columns: Sequence[str]) -> list[str]:
    found = [name for name in columns if fnmatchcase(name, pattern)]
    if len({re.sub(r"\d+", "0", name) for name in found}) > 1:
        return found  # no numbered columns: in the order of the file
    # pixel10 comes after pixel9, in whatever order the file has the columns.
    return sorted(found, key=lambda name: [int(p) if p.isdigit() else p for p in _runs(name)])


def _runs(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def _dtype(
    name: str,
    rule: ColumnRule | None,
    spec: TensorSpec | None,
    columns: tuple[str, ...],
    *,
    is_text: bool,
    is_normalised: bool,
) -> np.dtype[Any] | None:
    if rule is not None and rule.dtype is not None:
        return np.dtype(rule.dtype)
    if not is_text or spec is None or spec.data_type == dtypes.STRING:
        return None
    try:
        declared = spec.dtype
    except dtypes.UnsupportedDtype:
        return None
    if is_normalised and declared.kind == "f":
        text = ",".join(columns) if len(columns) < 4 else f"{columns[0]},..."
        raise BatchError(
            f'input "{name}": the model takes normalised pixels, and numbers in text may be raw '
            f"or normalised; say --map {name}={text}:uint8 or --map {name}={text}:float32"
        )
    return declared


def _listing(inputs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f'"{name}" {spec}' for name, spec in sorted(inputs.items()))


def _some(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:10])
    return f"{shown} and {len(columns) - 10} more" if len(columns) > 10 else shown or "none"
