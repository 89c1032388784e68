"""Which columns become which tensors, by name or as `--map` says."""

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
    """Names or patterns; the values of several become the last dimension."""
    dtype: str | None
    """What the values are taken for, where files don't tell."""


class Source(NamedTuple):
    """Where the values of a tensor come from."""

    columns: tuple[str, ...]
    dtype: np.dtype[Any] | None
    """What numbers are made into; None for as they are."""
    spec: TensorSpec | None
    """What the model declares; None where the server doesn't tell."""


def parse_rule(text: str) -> ColumnRule:
    """Read a `--map`.

    Raises:
        ValueError: It is none.
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
) -> dict[str, Source]:
    """Return where each tensor comes from.

    A rule comes first; then a column of the tensor's name; then the only column for the only
    tensor. `inputs` is what the model declares, and empty where the server doesn't tell: then
    there must be a rule for each. `is_normalised` tells that the model records how raw pixels
    become its floats, so that numbers without a dtype could be either.

    Raises:
        BatchError: A tensor has no column, or a rule no tensor.
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
            found = _matching(rule, columns)
        elif are_images and len(inputs) == 1:
            is_string = spec is not None and spec.data_type == dtypes.STRING
            found = (BYTES,) if is_string else (PATH,)
        elif name in columns:
            found = (name,)
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
        sources[name] = Source(found, dtype, spec)
    return sources


def matching(patterns: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that patterns name, in the order of the patterns.

    Raises:
        BatchError: A pattern names none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        # A column may be called `a[0]`, which as a pattern is another.
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
    # pixel10 comes after pixel9, whatever order the file has them in.
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
