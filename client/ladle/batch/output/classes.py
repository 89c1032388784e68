"""What an answer says about classes, beside its numbers: the label and the score of `class_id`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.client.prediction import Prediction

CLASS_ID = "class_id"
"""The output with the index of the predicted class, int `[rows]`."""
LABEL = "label"
SCORE = "score"


def scores_output(outputs: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the name of the only output that looks like scores, floats `[rows, classes]`.

    None where no output or more than one looks like that.
    """
    found = [
        name
        for name, array in outputs.items()
        if array.ndim == 2 and array.dtype.kind == "f" and array.shape[1] > 1
    ]
    return found[0] if len(found) == 1 else None


def with_classes(prediction: Prediction, taken: frozenset[str]) -> dict[str, NDArray[Any]]:
    """Return the outputs by name, in order; `label` and `score` follow `class_id`.

    `label` is text of a fixed width, `[rows]`: the class's name, or the index where the class has
    none; left out where the model has no names at all. `score` is `[rows]`, of the dtype of the
    only scores, and NaN for a class that they don't have; left out where the scores are not known.
    Names that the outputs or `taken` have are not given again.
    """
    outputs: dict[str, NDArray[Any]] = {}
    for name, array in sorted(prediction.outputs.items()):
        outputs[name] = array
        if name == CLASS_ID and array.ndim == 1 and array.dtype.kind in "iu":
            taken = taken.union(prediction.outputs)
            if prediction.labels and LABEL not in taken:
                outputs[LABEL] = _labels(array, prediction.labels)
            scores = scores_output(prediction.outputs)
            if scores is not None and SCORE not in taken:
                outputs[SCORE] = _scores(array, prediction[scores])
    return outputs


def _labels(class_ids: NDArray[Any], labels: tuple[str, ...]) -> NDArray[np.str_]:
    # What UTF-8 can't say can't be written; and every part of an output has the same width.
    names = [label.encode(errors="backslashreplace").decode() for label in labels]
    width = max(*map(len, names), len(str(np.iinfo(np.int64).min)))
    found = [names[i] if 0 <= i < len(names) else str(i) for i in class_ids.tolist()]
    return np.array(found, f"U{width}")


def _scores(class_ids: NDArray[Any], scores: NDArray[Any]) -> NDArray[Any]:
    found = np.full(len(class_ids), np.nan, scores.dtype)
    is_known = (class_ids >= 0) & (class_ids < scores.shape[1])
    found[is_known] = scores[is_known, class_ids[is_known]]
    return found
