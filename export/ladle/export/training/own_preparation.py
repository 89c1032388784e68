"""Find out whether a Keras model prepares its inputs itself, and which normalisation it expects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from ladle.export.data.dataset import Dataset
from ladle.export.data.normalization import normalized_as
from ladle.export.training.fitting import Trained
from ladle.export.training.outputs import cross_entropy

_PREPARES = (
    "Rescaling",
    "Normalization",
    "IntegerLookup",
    "Discretization",
    "Hashing",
    "CategoryEncoding",
    "Embedding",
)
# What may stand before them, and changes no value's scale.
_PASSED_OVER = ("InputLayer", "Reshape", "Flatten", "Resizing", "CenterCrop", "ZeroPadding2D")
_FEW = 512
_OF_IMAGES: tuple[str, ...] = ("none", "unit", "symmetric")
_OF_FEATURES: tuple[str, ...] = ("none", "standard")
# Another normalisation has to be this much better to be worth a warning.
_CLEARLY = 0.8


def normalized_for(custom: Any | None, dataset: Dataset, normalization: str | None) -> Dataset:
    """Return the data normalised as asked for, or as a model of one's own needs them.

    Args:
        custom: The model; None for a recipe's.
        dataset: The data.
        normalization: What was asked for, see `normalized_as`; None for nothing.

    Raises:
        ValueError: The data can't be normalised so.
    """
    if normalization is not None:
        return normalized_as(dataset, normalization)
    layer = None if custom is None else first_layer_that_prepares(custom)
    if layer is not None:
        note = f"the model begins with a layer {layer}, so it gets the data as they are"
        return replace(normalized_as(dataset, "none"), notes=(*dataset.notes, note))
    if not (dataset.is_made_up and dataset.preparation.are_images):
        return dataset
    note = "pixels are divided by 255; if the model expects something else: --normalization"
    return replace(dataset, notes=(*dataset.notes, note))


def first_layer_that_prepares(model: Any) -> str | None:
    """Return the class of the layer that takes the model's inputs raw; None without one.

    It normalises them itself, or they are numbers of something: categories, words.
    """
    for layer in getattr(model, "layers", ()):
        kind = type(layer).__name__
        if kind in _PREPARES:
            return kind
        if isinstance(layer, keras.Model):
            return first_layer_that_prepares(layer)
        if kind not in _PASSED_OVER and not kind.startswith("Random"):
            return None
    return None


def losses_by_normalization(trained: Trained, dataset: Dataset) -> dict[str, float]:
    """Return the held-out loss of a trained model with each way to normalise that it may expect.

    Under "this" with that of the data, which is what will be published, and under "none" of Keras's
    own answers to raw data; of some hundred examples each. Losses are cross-entropies, or a
    regression's mean squared error. Empty for texts, which are not normalised.
    """
    preparation = dataset.preparation
    if preparation.are_texts:
        return {}
    names = _OF_IMAGES if preparation.are_images else _OF_FEATURES
    if preparation.are_images and preparation.channels == 3:
        names = (*names, "imagenet")
    ways = {"this": dataset} | {name: normalized_as(dataset, name) for name in names}
    return {name: _loss(trained, way) for name, way in ways.items()}


def normalization_note(losses: Mapping[str, float]) -> str | None:
    """Return a warning where another normalisation clearly suits a model better; None without.

    Args:
        losses: As `losses_by_normalization` returns them.
    """
    if not losses:
        return None
    # A loss that is no number is no better.
    best = min(losses, key=lambda name: (math.isnan(losses[name]), losses[name]))
    if not losses[best] < _CLEARLY * losses["this"]:
        return None
    return (
        f"the model's held-out loss is {losses['this']:.4f}, and {losses[best]:.4f} with"
        f" --normalization {best}: it was probably trained on data that are prepared so"
    )


def _loss(trained: Trained, dataset: Dataset) -> float:
    answers = trained.answers(dataset.x_test[:_FEW], dataset.preparation).astype(np.float64)
    targets = dataset.y_test[: len(answers)]
    if dataset.is_regression:
        return float(((answers - targets) ** 2).mean())
    return cross_entropy(answers, targets)
