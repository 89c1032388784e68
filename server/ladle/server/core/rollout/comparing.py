"""What differs between the answer that a caller got and that of another version: without I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Outputs: TypeAlias = "Mapping[str, NDArray[Any]]"
Mask: TypeAlias = "NDArray[np.bool_]"

# So many values are compared at a time: the comparison takes some megabytes, whatever the answer.
_BLOCK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class OutputRule:
    """When a row of an output agrees; without a bound of its own, see `compare`."""

    atol: float = 0.0
    """By how much a number may differ,"""
    rtol: float = 0.0
    """and by which part of the caller's number beside that."""
    has_tolerance: bool = False
    """Whether numbers are compared by those two."""
    top_k: int = 0
    """The caller's top class has to be among so many of the other version; 0 for no matter."""


class Compared(NamedTuple):
    """How two answers to one request differ."""

    rows: int
    off_rows: int
    """Rows that do not agree in some output."""
    first_off: int | None
    """The first of them; None if there is none."""
    outputs: tuple[OutputDifference, ...]


class OutputDifference(NamedTuple):
    """How one output of two answers to one request differs. What is not a float has no amounts."""

    output: str
    rows: int
    off_rows: int
    """Rows that do not agree."""
    problem: str = ""
    """`missing`, `dtype` or `shape` where values can't be compared; every row is off then."""
    detail: str = ""
    """What was expected and what came, where there is a problem."""
    measured: int = 0
    """Pairs of numbers whose difference is finite."""
    max_abs: float = 0.0
    sum_abs: float = 0.0
    max_rel: float = 0.0
    """Relative to the larger of two numbers: 0 to 2."""
    sum_rel: float = 0.0
    not_finite: int = 0
    """Pairs of which one is NaN or infinite, and the other is something else."""
    class_rows: int = 0
    """Rows of classes: of floats, two or more of them."""
    top_changed: int = 0
    """Rows whose top class is another."""


def compare(callers: Outputs, others: Outputs, rules: Mapping[str, OutputRule]) -> Compared:
    """Return how far the answers differ.

    A row agrees with its rule. Where an output has none, the top class has to be the same in rows
    of classes, other floats have to be equal within a thousandth, and all else has to be equal.
    NaN equals NaN.

    Args:
        callers: the outputs that the caller got. What `others` has beside them counts for nothing.
        others: the outputs of the other version.
        rules: by output; that of the empty name is for all that have none.
    """
    differences: list[OutputDifference] = []
    masks: list[Mask] = []
    for alias, array in callers.items():
        rule = rules.get(alias) or rules.get("")
        difference, mask = _difference(alias, array, others.get(alias), rule)
        differences.append(difference)
        masks.append(mask)
    rows = max((len(mask) for mask in masks), default=0)
    off = np.zeros(rows, np.bool_)
    for mask in masks:
        off[: len(mask)] |= mask
    first_off = int(off.argmax()) if off.any() else None
    return Compared(rows, int(off.sum()), first_off, tuple(differences))


def _difference(
    alias: str, a: NDArray[Any], b: NDArray[Any] | None, rule: OutputRule | None
) -> tuple[OutputDifference, Mask]:
    rows = len(a) if a.ndim else 1
    problem, detail = _problem(a, b)
    if problem or b is None:
        mask = np.ones(rows, np.bool_)
        return OutputDifference(alias, rows, rows, problem, detail), mask
    if not rows or not a.size:
        return OutputDifference(alias, rows, 0), np.zeros(rows, np.bool_)
    if not _is_float(a.dtype):
        unequal = np.asarray(a != b, np.bool_).reshape(rows, -1)
        off: Mask = np.logical_or.reduce(unequal, axis=1)
        return OutputDifference(alias, rows, int(off.sum())), off
    return _float_difference(alias, a.reshape(rows, -1), b.reshape(rows, -1), a.ndim == 2, rule)


def _problem(a: NDArray[Any], b: NDArray[Any] | None) -> tuple[str, str]:
    if b is None:
        return "missing", f"expected {_shown(a)}, got none"
    if a.dtype != b.dtype:
        return "dtype", f"expected {_shown(a)}, got {_shown(b)}"
    if a.shape != b.shape:
        return "shape", f"expected {_shown(a)}, got {_shown(b)}"
    return "", ""


def _float_difference(
    alias: str, a: NDArray[Any], b: NDArray[Any], is_flat: bool, rule: OutputRule | None
) -> tuple[OutputDifference, Mask]:
    rows, width = a.shape
    has_classes = is_flat and width > 1 and a.dtype.kind != "c"
    tolerance = None
    if rule is not None and rule.has_tolerance:
        tolerance = rule.atol, rule.rtol
    elif not has_classes and (rule is None or not rule.top_k):
        tolerance = 1e-3, 1e-3
    off = np.zeros(rows, np.bool_)
    measured = not_finite = top_changed = 0
    max_abs = sum_abs = max_rel = sum_rel = 0.0
    for rows_at, columns in _blocks(rows, width):
        x, y = _wide(a[rows_at, columns]), _wide(b[rows_at, columns])
        with np.errstate(all="ignore"):
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            apart = np.where(same, 0.0, np.abs(x - y))
            strange = ~same & ~(np.isfinite(x) & np.isfinite(y))
            largest = np.maximum(np.abs(x), np.abs(y))
            # Both are finite: one that is too large for a difference counts as the largest number.
            apart = np.minimum(apart, np.finfo(np.float64).max)
            relative = np.divide(apart, largest, out=np.zeros_like(apart), where=apart > 0)
            fine = ~strange & np.isfinite(largest)
            off[rows_at] |= strange.any(axis=1)
            if tolerance is not None:
                allowed = tolerance[0] + tolerance[1] * np.abs(x)
                off[rows_at] |= (~same & ~(apart <= allowed)).any(axis=1)
        not_finite += int(strange.sum())
        measured += int(fine.sum())
        if fine.any():
            max_abs = max(max_abs, float(apart[fine].max()))
            max_rel = max(max_rel, float(relative[fine].max()))
            sum_abs += float(apart[fine].sum())
            sum_rel += float(relative[fine].sum())
    if has_classes:
        changed, outside = _classes(a, b, rule.top_k if rule else 0)
        top_changed = int(changed.sum())
        if rule is None or not (rule.has_tolerance or rule.top_k):
            off |= changed
        elif rule.top_k:
            off |= outside
    found = OutputDifference(
        alias,
        rows,
        int(off.sum()),
        measured=measured,
        max_abs=max_abs,
        sum_abs=sum_abs,
        max_rel=max_rel,
        sum_rel=sum_rel,
        not_finite=not_finite,
        class_rows=rows if has_classes else 0,
        top_changed=top_changed,
    )
    return found, off


def _classes(a: NDArray[Any], b: NDArray[Any], top_k: int) -> tuple[Mask, Mask]:
    """Return which rows have another top class, and in which it is not among the other's `top_k`.

    Of equal numbers the first class is on top.
    """
    rows, width = a.shape
    changed, outside = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        at = slice(start, start + step)
        x, y = a[at].astype(np.float64), b[at].astype(np.float64)
        top = x.argmax(axis=1)
        changed[at] = top != y.argmax(axis=1)
        if top_k:
            # How many classes the other version puts before the caller's.
            scores = np.take_along_axis(y, top[:, None], axis=1)
            before = (y > scores) | ((y == scores) & (np.arange(width) < top[:, None]))
            outside[at] = before.sum(axis=1) >= top_k
    return changed, outside


def _blocks(rows: int, width: int) -> Iterator[tuple[slice, slice]]:
    step = max(1, _BLOCK // width)
    for row in range(0, rows, step):
        for column in range(0, width, _BLOCK):
            yield slice(row, row + step), slice(column, column + _BLOCK)


def _wide(array: NDArray[Any]) -> NDArray[Any]:
    wide: Any = np.complex128 if array.dtype.kind == "c" else np.float64
    return array.astype(wide)


def _is_float(dtype: np.dtype[Any]) -> bool:
    # numpy takes those of the package ml_dtypes for a kind of their own.
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def _shown(array: NDArray[Any]) -> str:
    name = "string" if array.dtype.kind in "OSU" else array.dtype.name
    return f"{name} {list(array.shape)}"
