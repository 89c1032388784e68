"""How a model does that may give an example several labels: for each label, and as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset

_SHOWN_LABELS = 100
_NAMED = 5
_SEEN_OFTEN = 5


def by_label(answers: NDArray[np.float32], dataset: Dataset) -> dict[str, dict[str, float]]:
    """Return accuracy, precision and recall of each label, of the first hundred.

    Precision is 0 for a label that is never given, and recall for one that no example has.

    Args:
        answers: Probabilities of the held-out examples, [examples, labels].
        dataset: What they belong to.
    """
    given, truth = _given(answers), dataset.y_test.astype(bool)
    both = (given & truth).sum(axis=0)
    measures = {
        "accuracy": (given == truth).mean(axis=0),
        "precision": both / np.maximum(given.sum(axis=0), 1),
        "recall": both / np.maximum(truth.sum(axis=0), 1),
    }
    return {
        label: {name: round(float(values[place]), 6) for name, values in measures.items()}
        for place, label in enumerate(dataset.labels[:_SHOWN_LABELS])
    }


def suspicions_of_labels(answers: NDArray[np.float32], dataset: Dataset, causes: str) -> list[str]:
    """Return a sentence for each thing that says that the model has learnt nothing.

    Args:
        answers: Probabilities of the held-out examples, [examples, labels].
        dataset: What they belong to.
        causes: What may be behind it, for the end of a sentence.
    """
    given, truth = _given(answers), dataset.y_test.astype(bool)
    found = []
    accuracy = float((given == truth).mean())
    shares = truth.mean(axis=0)
    constant = float(np.maximum(shares, 1 - shares).mean())
    if accuracy <= constant < 1:
        found.append(
            f"an accuracy of {accuracy:.4f} is no better than giving every example the same labels"
            f" ({constant:.4f}); {causes}"
        )
    never = np.flatnonzero((truth.sum(axis=0) >= _SEEN_OFTEN) & ~given.any(axis=0)).tolist()
    if never:
        named = ", ".join(repr(dataset.labels[place]) for place in never[:_NAMED])
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        found.append(f"never given, although held-out examples have it: {named}{more}")
    return found


def _given(answers: NDArray[np.float32]) -> NDArray[np.bool_]:
    return answers > 0.5
