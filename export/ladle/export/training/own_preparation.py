"""Find out whether a Keras model prepares its inputs itself, and which normalisation it expects."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.normalization import normalized_as

_PREPARES = ("Rescaling", "Normalization")
# What may stand before them, and changes no value's scale.
_PASSED_OVER = ("InputLayer", "Reshape", "Flatten", "Resizing", "CenterCrop", "ZeroPadding2D")
_FEW = 512
_CANDIDATES = ("none", "unit", "symmetric")
# Another normalisation has to be this much better to be worth a warning.
_CLEARLY = 0.8


def first_layer_that_prepares(model: Any) -> str | None:
    """Return the class of the layer that normalises the model's inputs; None without one."""
    for layer in getattr(model, "layers", ()):
        kind = type(layer).__name__
        if kind in _PREPARES:
            return kind
        if isinstance(layer, keras.Model):
            return first_layer_that_prepares(layer)
        if kind not in _PASSED_OVER and not kind.startswith("Random"):
            return None
    return None


def better_normalization(model: Any, dataset: Dataset) -> tuple[str, float, float] | None:
    """Return a normalisation that clearly suits a trained classifier better than the data's.

    With it the held-out loss, of some hundred examples, for both: its own and the data's. None
    where there is no better one, or nothing to choose from.
    """
    if dataset.is_regression or not dataset.preparation.are_images:
        return None
    here = _loss(model, dataset)
    losses = {name: _loss(model, normalized_as(dataset, name)) for name in _CANDIDATES}
    best = min(losses, key=losses.__getitem__)
    return (best, losses[best], here) if losses[best] < _CLEARLY * here else None


def _loss(model: Any, dataset: Dataset) -> float:
    examples = dataset.preparation.apply(dataset.x_test[:_FEW])
    outputs = np.asarray(model.predict(examples, verbose=0), np.float64)
    return _cross_entropy(outputs, dataset.y_test[:_FEW].astype(np.int64))


def _cross_entropy(outputs: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    if np.all(outputs >= 0) and np.allclose(outputs.sum(axis=1), 1, atol=0.01):
        chosen = outputs[np.arange(len(targets)), targets]
        return float(-np.log(np.maximum(chosen, 1e-7)).mean())
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(targets)), targets]).mean())
