"""Find out whether a signature answers each row of a batch by that row alone.

A server may put the requests of several callers into one batch only if no row changes another
row's answer. The check runs the same rows in several batches: alone, together, in another order,
beside other rows, padded with copies, and in a large batch. It proves nothing about rows that were
not run, so a signature passes only if the sample has at least two different rows. An input that is
the same in all rows of the sample gets other values in every other row: one row's value could
count for all, and nobody would see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.saved_model.subprocess_check import Arrays, Request

_ALONE = 8
_PADDED_TO = 8
_MANY = 128
_SEED = 7
# Another batch size lets TensorFlow add numbers in another order.
_ROUNDING_STEPS = 512
_COARSEST = 0.02
_FINEST = float(np.finfo(np.float32).eps)  # float64 outputs are often computed from float32


def batches_to_compare(n_rows: int) -> list[NDArray[np.intp]]:
    """Return which rows of a sample to run in which batches, as indices into the sample."""
    everyone = np.arange(n_rows)
    padded = np.zeros(max(_PADDED_TO, n_rows // 2), np.intp)
    n_real = min(3, n_rows)
    padded[:n_real] = everyone[:n_real]
    middle = max(1, n_rows // 2)
    return [
        *(everyone[row : row + 1] for row in range(min(_ALONE, n_rows))),
        everyone,
        everyone[::-1],
        np.random.default_rng(_SEED).permutation(n_rows),
        everyone[:middle],
        everyone[middle - 1 :],
        padded,
        np.resize(everyone, max(_MANY, n_rows)),
    ]


def varied(inputs: Arrays) -> Arrays:
    """Return inputs that differ between the first two rows, where they were the same in all rows.

    The others stay as they are.
    """
    return {name: _varied(array) for name, array in inputs.items()}


def _varied(array: NDArray[Any]) -> NDArray[Any]:
    if len(array) < 2 or any(not np.array_equal(row, array[0]) for row in array[1:]):
        return array
    array = array.copy()
    odd = array[1::2]
    if array.dtype.kind == "b":
        array[1::2] = ~odd
    elif array.dtype.kind in "OSU":
        longer = [text + (b"2" if isinstance(text, bytes) else "2") for text in odd.ravel()]
        array = array.astype(np.object_)
        array[1::2] = np.array(longer, np.object_).reshape(odd.shape)
    else:
        array[1::2] = odd + np.ones((), array.dtype)
    return array


def requests_to_compare(signature: str, inputs: Arrays) -> list[Request]:
    """Return the requests whose answers `is_row_independent` compares, in their order.

    There are none for a sample without two different rows, which could show nothing.
    """
    if not _has_different_rows(inputs):
        return []
    inputs = varied(inputs)
    n_rows = len(next(iter(inputs.values())))
    return [
        Request(
            signature=signature,
            inputs={name: array[rows] for name, array in inputs.items()},
            may_fail=True,
        )
        for rows in batches_to_compare(n_rows)
    ]


def is_row_independent(
    n_rows: int, compared: Sequence[Arrays], *, computed_in_half: bool = False
) -> bool:
    """Return whether each row had the same answer in every batch.

    Args:
        n_rows: How many rows the sample has.
        compared: The outputs for `requests_to_compare`, in their order; empty for a request that
            failed.
        computed_in_half: Whether the model computes in half precision, whatever its outputs are.
    """
    least = _COARSEST if computed_in_half else 0.0
    if not compared:
        return False
    together = compared[min(_ALONE, n_rows)]
    return bool(together) and all(
        outputs.keys() == together.keys()
        and all(_is_same(name, outputs, together, rows, least) for name in together)
        for rows, outputs in zip(batches_to_compare(n_rows), compared, strict=True)
    )


def decided_by(output: str, decision: str, outputs: Arrays) -> NDArray[Any] | None:
    """Return the probabilities that an output decides by: `class_id`, or `NAME_class_id`.

    Args:
        output: The name of the output.
        decision: The kind of decision, class_id or indicators.
        outputs: All outputs of the signature.
    """
    if output == decision:
        return outputs.get("probabilities")
    return outputs.get(output.removesuffix(f"_{decision}")) if output.endswith(decision) else None


def _has_different_rows(inputs: Arrays) -> bool:
    return any(not np.array_equal(row, array[0]) for array in inputs.values() for row in array[1:])


def _is_same(
    name: str, outputs: Arrays, together: Arrays, rows: NDArray[np.intp], least: float
) -> bool:
    answer, expected = outputs[name], together[name][rows]
    if answer.shape != expected.shape:
        return False
    if answer.dtype.kind not in "fcV":  # V: bfloat16 and the like, which NumPy has no kind for
        if np.array_equal(answer, expected):
            return True
        return _is_tie(name, answer, together, rows, least) or _is_near_threshold(
            name, answer, together, rows, least
        )
    off = np.abs(answer.astype(np.complex128) - expected.astype(np.complex128))
    scale = float(np.max(np.abs(expected.astype(np.complex128)), initial=0))
    return bool(np.all(off <= max(least, _tolerance(answer.dtype)) * scale))


def _is_near_threshold(
    name: str, answer: NDArray[np.int64], together: Arrays, rows: NDArray[np.intp], least: float
) -> bool:
    """Return whether `indicators` differ only where the probability is about 1/2."""
    probabilities = decided_by(name, "indicators", together)
    if probabilities is None:
        return False
    given = probabilities[rows]
    if answer.shape != given.shape:
        return False
    decided = np.abs(given - 0.5) > max(least, _tolerance(given.dtype))
    return not np.any((answer != (given > 0.5)) & decided)


def _is_tie(
    name: str, answer: NDArray[np.int64], together: Arrays, rows: NDArray[np.intp], least: float
) -> bool:
    """Return whether each `class_id` has the highest probability, which several may share."""
    probabilities = decided_by(name, "class_id", together)
    if probabilities is None or probabilities.ndim != 2:
        return False
    if answer.ndim != 1 or np.any(answer < 0) or np.any(answer >= probabilities.shape[1]):
        return False
    chosen = probabilities[rows, answer]
    return bool(
        np.all(probabilities[rows].max(axis=1) - chosen <= max(least, _tolerance(chosen.dtype)))
    )


def _tolerance(dtype: np.dtype[Any]) -> float:
    if dtype.kind not in "fc":
        return _COARSEST
    return min(_COARSEST, _ROUNDING_STEPS * max(_FINEST, float(np.finfo(dtype).eps)))
