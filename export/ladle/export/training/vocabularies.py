"""Let the layers of a model that need it learn their vocabulary from the training texts."""

from __future__ import annotations

from typing import Any

import keras

from ladle.export.data.dataset import Dataset

_TEXTS_AT_A_TIME = 1024


def learn_vocabularies(model: Any, dataset: Dataset) -> None:
    """Adapt each layer `TextVectorization` or `StringLookup` that has no vocabulary.

    Only layers that take the model's texts as they are; a vocabulary that is there stays.
    """
    if not dataset.preparation.are_texts:
        return
    waiting = [layer for layer in _layers(model) if _is_empty(layer)]
    for layer in waiting:
        layer.adapt(_batches(dataset))


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
    kinds = (keras.layers.TextVectorization, keras.layers.StringLookup)
    if not isinstance(layer, kinds):
        return False
    return len(layer.get_vocabulary(include_special_tokens=False)) == 0
