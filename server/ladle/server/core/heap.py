"""What large requests take of the heap, and how it goes back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE_BYTES = 32 << 20
"""From here on a request is worth some milliseconds to take less memory."""

# TensorFlow copies what it is fed with another alignment.
_ALIGNMENT = 64


def trim() -> None:
    """Return what the heap no longer uses to the system; holds up others for some milliseconds.

    Only glibc's heap needs to be told, and can be.
    """
    _trim()(0)


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array where it can be fed to a model without another copy of it.

    Strings are copied one by one in any case, and stay where they are.
    """
    if array.dtype.hasobject or array.ctypes.data % _ALIGNMENT == 0:
        return array
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


@cache
def _trim() -> Callable[[int], object]:
    try:
        malloc_trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda _: None
    return malloc_trim
