from __future__ import annotations

from typing import Any

import pytest

from ladle.export.training.options import TrainingOptions


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "epochs: expected at least 1, got 0"),
        ("batch_size", 2**31, "batch size: expected at most 2147483647, got 2147483648"),
        ("batch_size", -3, "batch size: expected at least 1, got -3"),
        ("initial_epoch", -1, "initial epoch: expected at least 0, got -1"),
        ("steps_per_epoch", 0, "steps per epoch: expected at least 1, got 0"),
        ("steps_per_execution", 0, "steps per execution: expected at least 1, got 0"),
        ("validation_steps", 0, "validation steps: expected at least 1, got 0"),
        ("early_stopping", 0, "early stopping: expected at least 1, got 0"),
        ("data_workers", 0, "data workers: expected at least 1, got 0"),
        ("prefetch", -1, "prefetch: expected at least 0, got -1"),
        ("learning_rate", 0.0, "learning rate: expected a number above 0, got 0"),
        ("learning_rate", float("nan"), "learning rate: expected a number above 0, got nan"),
        ("loss_weight", float("inf"), "loss weight: expected a number above 0, got inf"),
        ("momentum", 1.5, "momentum: expected 0 to 1, got 1.5"),
        ("validation_split", 1.0, "validation split: expected 0 to less than 1, got 1"),
        ("validation", "test", "validation: expected none or held-out, got test"),
        ("seed", -1, "seed: expected 0 to 4294967295, got -1"),
        ("seed", 2**32, "seed: expected 0 to 4294967295, got 4294967296"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**{name: value})


@pytest.mark.parametrize(("n_images", "epochs"), [(60_000, 5), (1_442, 30), (10, 50)])
def test_small_data_is_shown_more_often_by_default(n_images: int, epochs: int) -> None:
    assert TrainingOptions().epochs_for(n_images) == epochs


def test_validation_is_on_one_thing_or_the_other() -> None:
    with pytest.raises(ValueError, match="expected none or held-out data or a split, got two"):
        TrainingOptions(validation="held-out", validation_split=0.5)
    with pytest.raises(ValueError, match="initial epoch: expected less than the 2 epochs"):
        TrainingOptions(epochs=2, initial_epoch=2)


@pytest.mark.parametrize(
    ("loss", "is_regression"),
    [
        (None, False),
        ("MSE", True),
        ("mean_squared_error", True),
        ("MeanSquaredError", True),
        ("LogCosh", True),
        ("CategoricalHinge", False),
    ],
)
def test_a_loss_on_numbers_is_known_however_it_is_written(
    loss: str | None, is_regression: bool
) -> None:
    assert TrainingOptions(loss=loss).is_regression == is_regression


def test_a_recipe_says_how_long_is_usual() -> None:
    assert TrainingOptions().epochs_for(60_000, 10) == 10


def test_epochs_that_were_asked_for_win_over_the_default() -> None:
    assert TrainingOptions(epochs=3).epochs_for(10) == 3
