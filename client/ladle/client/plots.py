"""Pictures of predictions; needs matplotlib, which `pip install 'ladle[plots]'` brings."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RIGHT, WRONG, OTHER = "tab:blue", "tab:red", "lightgray"
_EXAMPLES_IN_A_ROW = 3


def save_predictions(
    path: str | os.PathLike[str],
    images: ArrayLike,
    probabilities: ArrayLike,
    truths: Sequence[int] | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Save a picture of each image beside a bar chart of its class probabilities.

    The bar of the predicted class is blue where it is right, and red where it is wrong; then the
    true class's is blue. Below stands what was predicted, how surely, and what is true:
    `7 97% (7)`. Where the truth is not known, the predicted class is blue. The format follows the
    path's extension.

    Args:
        path: Where the picture goes; its folder exists.
        images: `[n, height, width]` in grey, or `[n, height, width, channels]` with 1, 3 or 4 of
            them; any number dtype.
        probabilities: `[n, classes]`, from 0 to 1.
        truths: The index of each image's true class; None where they are not known.
        labels: The classes' names; their indices where left out.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The arguments' sizes don't agree, or there is nothing to show.
    """
    pictures, scores = np.asarray(images), np.asarray(probabilities)
    names = [str(label) for label in labels] or [str(index) for index in range(scores.shape[-1])]
    _check(pictures, scores, truths, names)
    figure_class = _figure_class()
    columns = min(len(pictures), _EXAMPLES_IN_A_ROW)
    rows = math.ceil(len(pictures) / columns)
    # A Figure of its own, which draws with Agg: pyplot would keep it in the process's state.
    figure = figure_class(figsize=(4.2 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False).ravel()
    for index, (picture, score) in enumerate(zip(pictures, scores, strict=True)):
        truth = None if truths is None else truths[index]
        _draw(axes[2 * index], axes[2 * index + 1], picture, score, truth, names)
    for unused in axes[2 * len(pictures) :]:
        unused.set_axis_off()
    figure.savefig(path)


def bar_colours(predicted: int, truth: int | None, classes: int) -> list[str]:
    """Return each class's colour: the predicted one's, the true one's, and all others'."""
    colours = [OTHER] * classes
    colours[predicted] = WRONG
    colours[predicted if truth is None else truth] = RIGHT
    return colours


def caption(scores: NDArray[Any], truth: int | None, names: Sequence[str]) -> str:
    """Return what was predicted, how surely, and what is true: `7 97% (7)`."""
    predicted = int(np.argmax(scores))
    text = f"{names[predicted]} {float(scores[predicted]):.0%}"
    return text if truth is None else f"{text} ({names[truth]})"


def _check(
    pictures: NDArray[Any],
    scores: NDArray[Any],
    truths: Sequence[int] | None,
    names: Sequence[str],
) -> None:
    if pictures.ndim not in (3, 4) or not len(pictures):
        raise ValueError(f"images: expected [n, height, width], got {list(pictures.shape)}")
    if scores.shape != (len(pictures), len(names)):
        raise ValueError(
            f"probabilities: expected {[len(pictures), len(names)]} for {len(pictures)} images and "
            f"{len(names)} labels, got {list(scores.shape)}"
        )
    if truths is not None and (
        len(truths) != len(pictures) or not all(0 <= truth < len(names) for truth in truths)
    ):
        raise ValueError(
            f"truths: expected {len(pictures)} class indices from 0 to {len(names) - 1}, "
            f"got {list(truths)}"
        )


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ImportError("pictures need matplotlib: pip install 'ladle[plots]'") from None
    return Figure


def _draw(
    image_axes: Any,
    bar_axes: Any,
    picture: NDArray[Any],
    scores: NDArray[Any],
    truth: int | None,
    names: Sequence[str],
) -> None:
    # One channel is drawn as grey, with white for the lowest value as on paper.
    grey = picture[..., 0] if picture.ndim == 3 and picture.shape[-1] == 1 else picture
    image_axes.imshow(grey, cmap="binary")
    image_axes.set_xticks([])
    image_axes.set_yticks([])
    predicted = int(np.argmax(scores))
    image_axes.set_xlabel(
        caption(scores, truth, names), color=RIGHT if truth in (predicted, None) else WRONG
    )
    bar_axes.bar(range(len(scores)), scores, color=bar_colours(predicted, truth, len(scores)))
    bar_axes.set_ylim(0, 1)
    bar_axes.set_yticks([])
    crowded = max(map(len, names)) > 2
    bar_axes.set_xticks(range(len(names)), names, rotation=90 if crowded else 0, fontsize=8)
