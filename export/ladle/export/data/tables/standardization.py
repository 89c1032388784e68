"""What brings the columns of a table to mean 0 and deviation 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ladle.protos.model_card import Normalization

_ROWS_AT_A_TIME = 4096


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
