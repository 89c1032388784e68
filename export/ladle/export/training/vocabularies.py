"""Let the layers of a model that need it learn their vocabulary from the training texts."""

from __future__ import annotations

from typing import Any

import keras

from ladle.export.data.dataset import Dataset
from ladle.export.errors import ExportError

_TEXTS_AT_A_TIME = 1024


def learn_vocabularies(model: Any, dataset: Dataset) -> None:
    """Adapt each layer `TextVectorization` that has no vocabulary to the training texts.

    A vocabulary that is there stays. Other layers that look something up get what other layers
    make of the texts, so their owner has to adapt them.
    """
    if not dataset.preparation.are_texts:
        return
    for layer in _layers(model):
        if isinstance(layer, keras.layers.TextVectorization) and _is_empty(layer):
            layer.adapt(_batches(dataset))


def check_vocabularies(model: Any) -> None:
    """See that each layer that looks something up has a vocabulary.

    Raises:
        ExportError: One has none; the message names it.
    """
    for layer in _layers(model):
        if _is_empty(layer):
            raise ExportError(
                f"model: its layer {layer.name}, a {type(layer).__name__}, has no vocabulary: call"
                " its adapt() with the training data, or give it a vocabulary"
            )


def _batches(dataset: Dataset) -> Any:
    import tensorflow as tf

    texts = dataset.x_train.tolist()
    return tf.data.Dataset.from_tensor_slices(texts).batch(_TEXTS_AT_A_TIME)


def _layers(model: Any) -> list[Any]:
    found = []
    for layer in getattr(model, "layers", ()):
        found += [layer, *_layers(layer)]
    return found


def _is_empty(layer: Any) -> bool:
    layers = keras.layers
    kinds = (layers.TextVectorization, layers.StringLookup, layers.IntegerLookup)
    if not isinstance(layer, kinds):
        return False
    return len(layer.get_vocabulary(include_special_tokens=False)) == 0
