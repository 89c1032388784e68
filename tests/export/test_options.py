from __future__ import annotations

import pytest

from ladle.export.options import TrainingOptions


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 0, "epochs: expected at least 1, got 0"),
        ("batch_size", -3, "batch size: expected at least 1, got -3"),
        ("seed", -1, "seed: expected 0 to 4294967295, got -1"),
        ("seed", 2**32, "seed: expected 0 to 4294967295, got 4294967296"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**{name: value})


@pytest.mark.parametrize(("n_images", "epochs"), [(60_000, 5), (1_442, 30), (10, 50)])
def test_small_data_is_shown_more_often_by_default(n_images: int, epochs: int) -> None:
    assert TrainingOptions().epochs_for(n_images) == epochs


def test_epochs_that_were_asked_for_win_over_the_default() -> None:
    assert TrainingOptions(epochs=3).epochs_for(10) == 3
