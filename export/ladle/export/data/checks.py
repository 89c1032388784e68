"""What arrays have to be to make a data set: each check raises with what it expected and found."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import DataError

ROWS_AT_A_TIME = 4096
"""An array may be mapped, and larger than memory: it is gone through some rows at a time."""


def check_examples(what: str, examples: NDArray[Any]) -> None:
    """See that they are images of bytes, finite float32 numbers, or texts.

    Raises:
        DataError: They are not.
    """
    if examples.dtype == object:
        _check_texts(what, examples)
        return
    if examples.dtype == np.uint8:
        if examples.ndim not in (3, 4):
            raise DataError(
                f"{what}: expected [images, height, width] or [images, height, width, channels],"
                f" got {list(examples.shape)}"
            )
    elif examples.dtype != np.float32:
        raise DataError(
            f"{what}: expected raw uint8 pixels (training normalises them), float32 features or"
            f" texts, got {examples.dtype}"
        )
    elif examples.ndim < 2:
        raise DataError(
            f"{what}: expected raw uint8 pixels (training normalises them) or float32 features"
            f" [examples, features, ...], got float32 {list(examples.shape)}"
        )
    if 0 in examples.shape:
        one = "image and pixel" if examples.dtype == np.uint8 else "example and feature"
        raise DataError(f"{what}: expected at least one {one}, got {list(examples.shape)}")
    if examples.dtype == np.float32:
        check_finite(what, examples)


def _check_texts(what: str, texts: NDArray[Any]) -> None:
    if texts.ndim != 1:
        raise DataError(f"{what}: expected texts [examples], got {list(texts.shape)}")
    if not len(texts):
        raise DataError(f"{what}: expected at least one text, got none")
    for index, text in enumerate(texts):
        if not isinstance(text, str | bytes):
            raise DataError(f"{what}: expected texts, got {type(text).__name__} at [{index}]")


def check_finite(what: str, array: NDArray[Any]) -> None:
    """See that no number is infinite or NaN.

    Raises:
        DataError: One is.
    """
    for start in range(0, len(array), ROWS_AT_A_TIME):
        strange = np.argwhere(~np.isfinite(array[start : start + ROWS_AT_A_TIME]))
        if len(strange):
            row, *rest = (int(index) for index in strange[0])
            where = (start + row, *rest)
            raise DataError(f"{what}: expected finite numbers, got {array[where]} at {list(where)}")


def check_numbers(what: str, targets: NDArray[Any], n_examples: int) -> None:
    """See that there is a finite number for each example.

    Raises:
        DataError: There is not.
    """
    if targets.dtype.kind != "f":
        raise DataError(f"{what}: expected numbers, got {targets.dtype}")
    if targets.shape != (n_examples,):
        raise DataError(f"{what}: expected {[n_examples]}, got {list(targets.shape)}")
    check_finite(what, targets)


def check_targets(what: str, targets: NDArray[Any], n_examples: int) -> None:
    """See that there are finite numbers for each example, as many for one as for another.

    Raises:
        DataError: There are not.
    """
    if targets.ndim != 2:
        check_numbers(what, targets, n_examples)
        return
    if targets.dtype.kind != "f":
        raise DataError(f"{what}: expected numbers, got {targets.dtype}")
    if len(targets) != n_examples or not targets.shape[1]:
        raise DataError(
            f"{what}: expected [{n_examples}], or [{n_examples}, n] for n numbers an example,"
            f" got {list(targets.shape)}"
        )
    check_finite(what, targets)


def check_weights(what: str, weights: NDArray[Any], n_examples: int) -> None:
    """See that there is a weight for each example, and that some count.

    Raises:
        DataError: They are not so.
    """
    check_numbers(what, weights, n_examples)
    if weights.min() < 0:
        raise DataError(f"{what}: expected weights from 0, got {weights.min():g}")
    if not weights.any():
        raise DataError(f"{what}: expected a weight above 0, or nothing is learnt; all are 0")


def check_classes(what: str, targets: NDArray[Any], n_examples: int, n_classes: int) -> None:
    """See that there is a class for each example, 0 to `n_classes` - 1.

    Raises:
        DataError: There is not.
    """
    check_integers(what, targets)
    if len(targets) != n_examples:
        raise DataError(f"{what}: expected {n_examples} labels, one an image, got {len(targets)}")
    for extreme in (targets.min(), targets.max()):
        if not 0 <= extreme < n_classes:
            raise DataError(f"{what}: expected labels 0 to {n_classes - 1}, got {extreme}")


def check_indicators(what: str, targets: NDArray[Any], n_examples: int, n_labels: int) -> None:
    """See that there is a row of 0s and 1s for each example, a place for each label.

    Raises:
        DataError: There is not.
    """
    if targets.dtype.kind not in "iub":
        raise DataError(f"{what}: expected 0s and 1s, got {targets.dtype}")
    if targets.shape != (n_examples, n_labels):
        raise DataError(
            f"{what}: expected a row of 0s and 1s for each example, {[n_examples, n_labels]},"
            f" got {list(targets.shape)}"
        )
    strange = np.argwhere((targets != 0) & (targets != 1))
    if len(strange):
        row, place = strange[0].tolist()
        raise DataError(f"{what}: expected 0s and 1s, got {targets[row, place]} at {[row, place]}")


def check_integers(what: str, targets: NDArray[Any]) -> None:
    """See that they are one integer for each example.

    Raises:
        DataError: They are not.
    """
    if targets.dtype.kind not in "iu":
        raise DataError(f"{what}: expected integer labels, got {targets.dtype}")
    if targets.ndim != 1:
        raise DataError(
            f"{what}: expected one label for each image, shape [images], got {list(targets.shape)}"
        )
