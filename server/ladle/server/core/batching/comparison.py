"""Whether requests have the same answers together as alone, within what rounding explains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.server.core.batching.rows import Outputs
from ladle.server.core.servable import Arrays

# Of the dtypes that numpy doesn't know as floats: the distance from 1 to the next number.
_EPSILONS = {"bfloat16": 2.0**-7}
_FLOAT8_EPSILON = 2.0**-2


def difference(alone: Sequence[Outputs], together: Sequence[Outputs]) -> str | None:
    """Return what differs between the answers of lone runs and those of a batch; None if nothing.

    Numbers may differ by a few thousand roundings of their dtype, measured by the largest number
    in the same place of any row: a sum near zero has the rounding of what was summed. Integers,
    booleans and strings are equal or not. NaN equals NaN.

    Args:
        alone: the outputs of each request that ran by itself.
        together: the outputs of the same requests, in the same order, from the batch.
    """
    for alias in alone[0]:
        pairs = [(a[alias], b[alias]) for a, b in zip(alone, together, strict=True)]
        for a, b in pairs:
            if a.shape != b.shape:
                return (
                    f"output {alias!r} had shape {list(a.shape)} alone "
                    f"and {list(b.shape)} in a batch"
                )
        if len({a.shape[1:] for a, _ in pairs}) == 1 and all(a.ndim for a, _ in pairs):
            joined = [np.concatenate(arrays) for arrays in zip(*pairs, strict=True)]
            pairs = [(joined[0], joined[1])]
        for a, b in pairs:
            if (found := _difference(a, b)) is not None:
                return f"output {alias!r} {found}"
    return None


def all_vary(requests: Sequence[Arrays]) -> bool:
    """Whether each input has other values in some request than in the first.

    Otherwise a comparison proves little: a mean over equal rows is each row.
    """
    first, *rest = requests
    return all(
        any(not _equal(array, other[alias]) for other in rest) for alias, array in first.items()
    )


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b))


def _difference(a: NDArray[Any], b: NDArray[Any]) -> str | None:
    epsilon = _epsilon(a.dtype)
    if epsilon is None:
        differing = int(np.count_nonzero(np.asarray(a != b)))
        return f"differed in {differing} of {a.size} values" if differing else None
    wide: Any = np.complex128 if a.dtype.kind == "c" else np.float64
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if same.all():
            return None
        sizes = np.maximum(np.abs(x), np.abs(y))
        finite = np.where(np.isfinite(sizes), sizes, 0.0)
        scale = finite.max(axis=0, keepdims=True) if a.ndim else finite
        allowed = np.sqrt(epsilon) / 4 * np.broadcast_to(scale, x.shape)
        apart = np.abs(x - y)
        wrong = ~same & ~(apart <= allowed)
    if not wrong.any():
        return None
    worst = int(np.argmax(np.where(wrong, np.where(np.isfinite(apart), apart, np.inf), -1.0)))
    return (
        f"was {x.flat[worst]:.6g} alone and {y.flat[worst]:.6g} in a batch, a difference of "
        f"{apart.flat[worst]:.3g} where rounding explains {allowed.flat[worst]:.3g}"
    )


def _epsilon(dtype: np.dtype[Any]) -> float | None:
    """Return the rounding of a dtype relative to a number; None for what is never rounded."""
    if dtype.kind in "fc":
        return float(np.finfo(dtype).eps)
    if dtype.name.startswith("float8"):
        return _FLOAT8_EPSILON
    return _EPSILONS.get(dtype.name)
