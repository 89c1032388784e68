from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import Dataset
from ladle.export.report.suspicions import suspicions

CLASSES = np.arange(300) % 3
IMAGES = np.zeros((300, 2, 2), np.uint8)
RNG = np.random.default_rng(0)


def data(targets: NDArray[Any] = CLASSES, *, regression: bool = False) -> Dataset:
    arrays = {"x_train": IMAGES, "y_train": targets, "x_test": IMAGES, "y_test": targets}
    return Dataset.from_arrays("d", arrays, regression=regression)


def certain(classes: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(np.eye(3, dtype=np.float32)[classes])


def test_a_good_model_arouses_none() -> None:
    assert suspicions(certain(CLASSES), data()) == []
    values = CLASSES.astype(np.float32)
    assert suspicions(values + 0.1, data(values, regression=True)) == []


def test_a_model_at_chance_is_named_with_likely_causes() -> None:
    (found,) = suspicions(certain(RNG.integers(0, 3, 300)), data())
    assert "is no better than always answering '0' (0.3333)" in found
    assert "--normalization" in found


@pytest.mark.parametrize("regression", [False, True])
def test_a_constant_output_is_one_suspicion(regression: bool) -> None:
    answers = np.ones(300, np.float32) if regression else certain(np.ones(300, int))
    (found,) = suspicions(answers, data(regression=regression))
    assert found.startswith("the model gives the same answer for every held-out example")


def test_a_class_that_is_never_predicted_is_named() -> None:
    (found,) = suspicions(certain(np.minimum(CLASSES, 1)), data())
    assert found.startswith("never predicted, although held-out examples are of it: '2'")


def test_a_regression_no_better_than_the_mean_is_named() -> None:
    values = CLASSES.astype(np.float32)
    (found,) = suspicions(values[::-1] + 2, data(values, regression=True))
    assert "no better than always answering the mean (0.6667)" in found
