"""What all formats share: the names of columns, and dtypes and text that files can hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.batch.errors import BatchError

ROW = "row"
"""The column with the numbers of the rows, from 0."""


def check(kept: Iterable[str], outputs: Iterable[str]) -> None:
    """Check that no two columns of the output have the same name.

    Raises:
        BatchError: Two columns have the same name.
    """
    names = [ROW, *kept, *outputs]
    for name in names:
        if names.count(name) > 1:
            raise two_columns(name)


def two_columns(name: str) -> BatchError:
    """Return the error for two columns of the output with the same name."""
    return BatchError(
        f'the output would have two columns "{name}"; leave one out with --keep or --outputs'
    )


def utf8_safe(value: Any) -> Any:
    """Return text with escapes for characters that UTF-8 doesn't have; other values unchanged."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def plain(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with one of numpy's own dtypes.

    Quantised numbers become integers; bfloat16 and float8 become float32.
    """
    if array.dtype.names:
        return array.view(array.dtype[0])
    if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8")):
        return array.astype(np.int8 if "int" in array.dtype.name else np.float32)
    return array
