"""What large requests take of the heap, and how it goes back to the system."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGE_BYTES = 32 << 20
"""From here on a request is worth some milliseconds to take less memory."""

# TensorFlow copies what it is fed with another alignment.
_ALIGNMENT = 64
# Copying fewer bytes takes less time than finding the place for them.
_WORTH_ALIGNING_BYTES = 64 << 10


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
    copy = _empty(array.shape, array.dtype)
    np.copyto(copy, array)
    return copy


def joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the rows of arrays of one dtype in order, in one array.

    A large one is where it can be fed to a model without another copy.
    """
    first = arrays[0]
    if first.dtype.hasobject or sum(array.nbytes for array in arrays) < _WORTH_ALIGNING_BYTES:
        return np.concatenate(arrays)
    memory = _empty((sum(map(len, arrays)), *first.shape[1:]), first.dtype)
    return np.concatenate(arrays, out=memory)


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    nbytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(nbytes + _ALIGNMENT, np.uint8)
    # A quarter of what `memory.ctypes.data` takes.
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return np.ndarray(shape, dtype, memory, start)


def in_use() -> int:
    """Return how many bytes of the C library's heap are in use; 0 where that can't be asked."""
    info = _mallinfo()()
    return 0 if info is None else int(info.uordblks + info.hblkhd)


class _MallInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns; man mallinfo has the fields."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


@cache
def _mallinfo() -> Callable[[], Any]:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):  # not glibc, or an old one
        return lambda: None
    mallinfo2.restype = _MallInfo
    return mallinfo2


@cache
def _trim() -> Callable[[int], object]:
    try:
        malloc_trim: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda _: None
    return malloc_trim
