"""Tables of other libraries, column by column: pandas' and polars' DataFrames, Arrow's tables.

They are known by their attributes, and none of these libraries is imported. Pure functions, safe in
any thread.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Frame(Protocol):
    """A DataFrame, such as pandas' and polars': columns by name, each as long as the others."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column."""


def is_frame(values: Any) -> bool:
    """Return whether a value is a DataFrame of pandas or polars, or a table of Arrow."""
    if isinstance(values, np.ndarray) or not hasattr(values, "__getitem__"):
        return False
    return hasattr(values, "column_names") or (
        hasattr(values, "to_numpy") and hasattr(values, "columns")
    )


def columns_of(frame: Any) -> dict[str, Any]:
    """Return the columns of a frame by name.

    Raises:
        ValueError: It has none, or several of one name.
    """
    keys = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    if not keys:
        raise ValueError(f"expected columns, got an empty {type(frame).__name__}")
    names = [str(key) for key in keys]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f'column "{repeated}": expected each name once, got it several times')
    return {name: frame[key] for name, key in zip(names, keys, strict=True)}


def has_missing(values: Any) -> bool:
    """Return whether a column of a library that knows missing values has some.

    numpy would make NaN of them, and floats of integers. A NaN in a column of plain floats is a
    number as any other.
    """
    if isinstance(values, np.ndarray | np.generic):
        return False
    count = getattr(values, "null_count", None)  # polars' method, and Arrow's attribute
    if count is not None:
        counted = count() if callable(count) else count
        return isinstance(counted, int) and counted > 0
    dtype = getattr(values, "dtype", None)
    if dtype is None or isinstance(dtype, np.dtype) or not hasattr(values, "isna"):
        return False
    return bool(np.any(values.isna()))  # pandas' categories, and its own types
