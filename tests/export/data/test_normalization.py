from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import Dataset
from ladle.export.data.normalization import check_name, normalized_as

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
LABELS = np.arange(12) % 3


def data(examples: NDArray[Any]) -> Dataset:
    arrays = {"x_train": examples, "y_train": LABELS, "x_test": examples, "y_test": LABELS}
    return Dataset.from_arrays("d", arrays)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("none", 0, 255), ("unit", 0, 1), ("symmetric", -1, 1), ("100/50", -2, 3.1)],
)
def test_0_and_255_become_what_the_name_says(name: str, low: float, high: float) -> None:
    prepare = normalized_as(data(IMAGES), name).normalization.apply
    extremes = prepare(np.array([[0, 0, 0], [255, 255, 255]], np.uint8))
    np.testing.assert_allclose(extremes, [[low] * 3, [high] * 3], atol=1e-6)


def test_imagenets_mean_becomes_0() -> None:
    normalization = normalized_as(data(IMAGES), "imagenet").normalization
    means = np.array([0.485, 0.456, 0.406]) * 255
    np.testing.assert_allclose(normalization.apply(means), 0, atol=1e-5)


@pytest.mark.parametrize("examples", [IMAGES, IMAGES[..., 0], IMAGES[:, 0, :, 0] / np.float32(9)])
def test_standard_gives_mean_0_and_deviation_1(examples: NDArray[Any]) -> None:
    dataset = normalized_as(data(examples), "standard")
    prepared = dataset.preparation.apply(examples)
    axes = tuple(range(prepared.ndim - (prepared.ndim != 3)))
    np.testing.assert_allclose(prepared.mean(axis=axes), 0, atol=1e-4)
    np.testing.assert_allclose(prepared.std(axis=axes), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("half", "normalization: expected none, unit, symmetric, imagenet, standard or MEAN"),
        ("1/0", "normalization: 1/0: normalization divisor: expected non-zero"),
        ("x/1", "normalization: x/1: could not convert"),
        ("1,2/1,2", "normalization: 1,2/1,2 is for 2 channels, the data have 3"),
    ],
)
def test_another_text_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalized_as(data(IMAGES), text)
    if "is for" not in message:
        with pytest.raises(ValueError, match=message):
            check_name(text)


def test_features_are_no_pixels() -> None:
    with pytest.raises(ValueError, match="unit is for images, not for features"):
        normalized_as(data(IMAGES[:, 0, :, 0].astype(np.float32)), "unit")
