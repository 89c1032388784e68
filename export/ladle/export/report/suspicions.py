"""What in the held-out answers says that a model has learnt nothing, or is fed wrongly."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.report.multi_label import suspicions_of_labels

_SAME = 1e-6
_SEEN_OFTEN = 5
_NAMED = 5
_CAUSES = (
    "likely causes: inputs that are not prepared as the model expects (--normalization), a learning"
    " rate that is too high, labels in another order, or too few epochs"
)


def suspicions(answers: NDArray[np.float32], dataset: Dataset) -> list[str]:
    """Return a sentence for each suspicion, the gravest first.

    Args:
        answers: To the held-out examples: probabilities [examples, classes], or a regression's
            values [examples] or [examples, n].
        dataset: What they belong to.
    """
    if len(answers) > 1 and float(np.ptp(answers, axis=0).max()) < _SAME:
        return [f"the model gives the same answer for every held-out example; {_CAUSES}"]
    if dataset.is_regression:
        return _of_regression(answers, dataset.y_test)
    if dataset.is_multi_label:
        return suspicions_of_labels(answers, dataset, _CAUSES)
    return [*_chance(answers, dataset), *_never_predicted(answers, dataset)]


def _of_regression(values: NDArray[np.float32], targets: NDArray[np.float32]) -> list[str]:
    error = float(np.mean((values - targets) ** 2))
    spread = float(np.mean(np.var(targets, axis=0)))
    if error < spread or len(values) < _SEEN_OFTEN:
        return []
    return [
        f"a mean squared error of {error:.4g} is no better than always answering the mean"
        f" ({spread:.4g}); {_CAUSES}"
    ]


def _chance(answers: NDArray[np.float32], dataset: Dataset) -> list[str]:
    """Compare with always answering the class that is most frequent in the held-out examples."""
    n_examples = len(answers)
    accuracy = float(np.mean(answers.argmax(axis=1) == dataset.y_test))
    counts = np.bincount(dataset.y_test.astype(np.int64), minlength=len(dataset.labels))
    share = float(counts.max()) / n_examples
    # A model that guesses is that much above it in one case of forty.
    margin = 2 * math.sqrt(share * (1 - share) / n_examples)
    if accuracy > share + margin or share == 1:
        return []
    most = dataset.labels[int(counts.argmax())]
    return [
        f"an accuracy of {accuracy:.4f} is no better than always answering {most!r}"
        f" ({share:.4f}); {_CAUSES}"
    ]


def _never_predicted(answers: NDArray[np.float32], dataset: Dataset) -> list[str]:
    n_classes = len(dataset.labels)
    counts = np.bincount(dataset.y_test.astype(np.int64), minlength=n_classes)
    predicted = np.bincount(answers.argmax(axis=1), minlength=n_classes)
    never = np.flatnonzero((counts >= _SEEN_OFTEN) & (predicted == 0)).tolist()
    if not never:
        return []
    named = ", ".join(repr(dataset.labels[index]) for index in never[:_NAMED])
    more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
    return [
        f"never predicted, although held-out examples are of it: {named}{more}; likely causes: too"
        " few examples of it (--class-weights balanced), or labels in another order"
    ]
