"""What brings the columns of a table to mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ladle.protos.model_card import Normalization

_ROWS_AT_A_TIME = 4096
# float32 has 2^23 steps between a number and its double.
_MOST_STEPS = 1 << 19
_MAX_SHOWN = 300


def precision_note(found: Normalization, names: Sequence[str]) -> str | None:
    """Return the sentence on columns whose differences float32 hardly holds; None without such.

    Args:
        found: As `standardization` measured it.
        names: Of the columns.
    """
    offsets, divisors = np.atleast_1d(found.offset), np.atleast_1d(found.divisor)
    lost = np.abs(offsets) > divisors * _MOST_STEPS
    if not lost.any():
        return None
    shown = ", ".join(f'"{name}"' for name, is_lost in zip(names, lost, strict=True) if is_lost)
    return (
        f"columns {shown[:_MAX_SHOWN]}: their values are so large beside their differences that"
        " float32 rounds these away; subtract a number near them, such as the first date"
    )


def standardization(features: NDArray[np.float32]) -> Normalization:
    """Return what brings each column to mean 0 and deviation 1, measured some rows at a time."""
    n_rows, n_columns = features.shape
    starts = range(0, n_rows, _ROWS_AT_A_TIME)
    total = np.zeros(n_columns)
    for start in starts:
        total += features[start : start + _ROWS_AT_A_TIME].sum(axis=0, dtype=np.float64)
    mean = total / n_rows
    squares = np.zeros(n_columns)
    for start in starts:
        squares += ((features[start : start + _ROWS_AT_A_TIME] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / n_rows)
    return Normalization(
        offset=tuple(map(float, mean)),
        divisor=tuple(map(float, np.where(deviation > 0, deviation, 1))),
    )
