"""The ways to normalise raw data, by the names that `--normalization` takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ladle.export.data.dataset import BYTE_PIXELS, Dataset
from ladle.protos.model_card import Normalization

NAMES = ("none", "unit", "symmetric", "imagenet", "standard")
"""none: raw; unit: 0 to 1; symmetric: -1 to 1; imagenet: its mean and deviation; standard: the
mean and deviation of the training data, for each channel or feature."""

_IMAGENET = Normalization(
    offset=(0.485 * 255, 0.456 * 255, 0.406 * 255), divisor=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)
_FIXED = {
    "none": Normalization(),
    "unit": BYTE_PIXELS,
    "symmetric": Normalization(offset=127.5, divisor=127.5),
    "imagenet": _IMAGENET,
}
_ROWS_AT_A_TIME = 1024


def normalized_as(dataset: Dataset, text: str) -> Dataset:
    """Return the data with the normalisation of that name, or of `MEAN/DEVIATION`.

    Both are a number, or as many as there are channels or features, with commas between them; in
    the units of the raw data, 0 to 255 for pixels.

    Raises:
        ValueError: There is no such name, or the numbers do not fit the data.
    """
    if dataset.preparation.are_texts:
        if text != "none":
            raise ValueError(f"normalization: {text} is for numbers, and the data are texts")
        return dataset
    if text == "standard":
        return replace(dataset, normalization=_measured(dataset))
    normalization = _FIXED.get(text) or _parsed(text)
    if text in ("unit", "symmetric", "imagenet") and not dataset.preparation.are_images:
        raise ValueError(f"normalization: {text} is for images, not for features")
    channels = dataset.preparation.channels if dataset.preparation.are_images else None
    expected = channels or dataset.image_shape[-1]
    for numbers in (normalization.offset, normalization.divisor):
        if isinstance(numbers, tuple) and len(numbers) != expected:
            raise ValueError(
                f"normalization: {text} is for {len(numbers)} channels, the data have {expected}"
            )
    if channels == 1 and len(dataset.image_shape) == 2 and isinstance(normalization.offset, tuple):
        raise ValueError(f"normalization: {text} is for channels, the data have none")
    return replace(dataset, normalization=normalization)


def check_name(text: str) -> None:
    """See that `normalized_as` knows the text, before there are data.

    Raises:
        ValueError: It does not.
    """
    if text not in NAMES:
        _parsed(text)


def _parsed(text: str) -> Normalization:
    offset, slash, divisor = text.partition("/")
    try:
        if slash:
            return Normalization(offset=_numbers(offset), divisor=_numbers(divisor))
    except ValueError as error:
        raise ValueError(f"normalization: {text}: {error}") from None
    raise ValueError(
        f"normalization: expected {', '.join(NAMES)} or MEAN/DEVIATION, such as 127.5/127.5,"
        f" got {text}"
    )


def _numbers(text: str) -> float | tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    return numbers[0] if len(numbers) == 1 else numbers


def _measured(dataset: Dataset) -> Normalization:
    """Return the mean and deviation over the training data, some rows at a time in memory."""
    examples = dataset.x_train
    has_last = not dataset.preparation.are_images or examples.ndim == 4
    axes = tuple(range(examples.ndim - has_last))
    count, total, squares = 0, np.float64(0), np.float64(0)
    for start in range(0, len(examples), _ROWS_AT_A_TIME):
        rows = np.asarray(examples[start : start + _ROWS_AT_A_TIME], np.float64)
        count += int(np.prod([rows.shape[axis] for axis in axes]))
        total = total + rows.sum(axis=axes)
        squares = squares + (rows**2).sum(axis=axes)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    deviation = np.where(deviation > 0, deviation, 1)
    if not has_last:
        return Normalization(offset=float(mean), divisor=float(deviation))
    return Normalization(
        offset=tuple(np.atleast_1d(mean).tolist()), divisor=tuple(np.atleast_1d(deviation).tolist())
    )
