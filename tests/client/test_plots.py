from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from ladle.client.plots import OTHER, RIGHT, WRONG, bar_colours, caption, save_predictions

IMAGES = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8)
PROBABILITIES = np.array([[0.03, 0.97]] * 5)
TRUTHS = [1, 1, 0, 1, 0]


def test_a_right_prediction_is_blue() -> None:
    assert bar_colours(predicted=1, truth=1, classes=3) == [OTHER, RIGHT, OTHER]


def test_a_wrong_prediction_is_red_and_the_true_class_blue() -> None:
    assert bar_colours(predicted=2, truth=0, classes=3) == [RIGHT, OTHER, WRONG]


def test_the_caption_tells_prediction_probability_and_truth() -> None:
    assert caption(np.array([0.03, 0.97]), 0, ["cat", "dog"]) == "dog 97% (cat)"


@pytest.mark.parametrize("images", [IMAGES, IMAGES[..., None], np.stack([IMAGES] * 3, axis=-1)])
@pytest.mark.parametrize("labels", [(), ("cat", "dog")])
def test_a_picture_is_written(tmp_path: Path, images: ArrayLike, labels: tuple[str, ...]) -> None:
    path = tmp_path / "predictions.png"
    save_predictions(path, images, PROBABILITIES, TRUTHS, labels)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("images", "probabilities", "truths", "message"),
    [
        (IMAGES[0], PROBABILITIES, TRUTHS, r"images: expected \[n, height, width\], got \[8, 8\]"),
        (IMAGES[:0], PROBABILITIES[:0], [], r"images: expected"),
        (IMAGES, PROBABILITIES[:2], TRUTHS, r"probabilities: expected \[5, 2\] .* got \[2, 2\]"),
        (IMAGES, PROBABILITIES, TRUTHS[:2], r"truths: expected 5 class indices from 0 to 1"),
        (IMAGES, PROBABILITIES, [2] * 5, r"truths: expected 5 class indices from 0 to 1"),
    ],
)
def test_sizes_that_dont_agree_are_refused(
    tmp_path: Path, images: ArrayLike, probabilities: ArrayLike, truths: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        save_predictions(tmp_path / "predictions.png", images, probabilities, truths)


def test_without_matplotlib_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'ladle\[plots\]'"):
        save_predictions(tmp_path / "predictions.png", IMAGES, PROBABILITIES, TRUTHS)
