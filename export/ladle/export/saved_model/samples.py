"""Held-out examples in every form that a signature takes, and what the trained model says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.data.preparation import Preparation
from ladle.export.saved_model.signatures import (
    CLASSIFY,
    COLUMNS,
    DEFAULT,
    ENCODED,
    ENCODED_FEATURE,
    EXAMPLES_INPUT,
    LABEL_THRESHOLD,
    LOGITS,
    REGRESS,
)
from ladle.export.saved_model.subprocess_check import Arrays
from ladle.export.training.fitting import Trained
from ladle.protos.tensorflow_pb import Example


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Inputs of one signature, and the outputs that they have to give; row by row the same."""

    inputs: Arrays
    outputs: Arrays

    def first(self) -> Sample:
        """Return its first row alone."""
        return Sample(
            inputs={key: array[:1] for key, array in self.inputs.items()},
            outputs={key: array[:1] for key, array in self.outputs.items()},
        )


def make_samples(
    signatures: Iterable[str],
    raw: NDArray[Any],
    trained: Trained,
    preparation: Preparation,
    labels: tuple[str, ...],
) -> dict[str, Sample]:
    """Return for each of `signatures` the examples `raw` as it takes them.

    The outputs are Keras's own, which runs another graph than the SavedModel does.
    """
    # What is resized in the graph is resized for Keras beforehand, and sent as it is.
    normalized = preparation.normalization.apply(raw) if preparation.are_images else raw
    model_outputs = trained.raw_outputs(preparation.apply(raw))
    samples = {}
    for name in signatures:
        inputs: dict[str, NDArray[Any]]
        if name in (CLASSIFY, REGRESS):
            inputs = {EXAMPLES_INPUT: _examples(raw, preparation)}
        elif name == ENCODED:
            inputs = {preparation.input_name: encode(raw, preparation)}
        elif name == COLUMNS:
            inputs = dict(zip(preparation.columns, raw.T, strict=True))
        elif name in (DEFAULT, LOGITS) and preparation.are_images:
            inputs = {preparation.input_name: normalized}
        else:
            inputs = {preparation.input_name: raw}
        samples[name] = Sample(
            inputs=inputs, outputs=_outputs(name, model_outputs, trained, labels)
        )
    return samples


def encode(raw: NDArray[np.uint8], preparation: Preparation) -> NDArray[np.object_]:
    """Return each image as the bytes of a PNG file."""
    pixels = raw.reshape(*raw.shape[:3], preparation.channels)
    encoded = [tf.io.encode_png(image).numpy() for image in pixels]
    return np.array(encoded, np.object_)


def _examples(raw: NDArray[Any], preparation: Preparation) -> NDArray[np.object_]:
    """Return tf.Examples; every other one holds its image as a PNG, where that can be."""
    encoded = encode(raw, preparation) if preparation.decodable else None
    examples = []
    for index, row in enumerate(raw):
        example = Example()
        if encoded is not None and index % 2:
            example.features.feature[ENCODED_FEATURE].bytes_list.value.append(encoded[index])
        elif preparation.are_texts:
            text = row.encode() if isinstance(row, str) else row
            example.features.feature[preparation.input_name].bytes_list.value.append(text)
        elif preparation.are_images:
            pixels = example.features.feature[preparation.input_name].int64_list
            pixels.value.extend(row.ravel().tolist())
        else:
            numbers = example.features.feature[preparation.input_name].float_list
            numbers.value.extend(row.ravel().tolist())
        examples.append(example.SerializeToString())
    return np.array(examples, np.object_)


def _outputs(
    name: str, model_outputs: NDArray[np.float32], trained: Trained, labels: tuple[str, ...]
) -> Arrays:
    if trained.is_regression:
        return {"outputs" if name == REGRESS else "values": trained.values_of(model_outputs)}
    if name == LOGITS:
        return {"logits": model_outputs}
    probabilities = np.asarray(trained.activated(model_outputs))
    if name == CLASSIFY:
        names = np.array([label.encode() for label in labels], np.object_)
        return {"classes": np.tile(names, (len(model_outputs), 1)), "scores": probabilities}
    if trained.is_multi_label:
        indicators = (probabilities > LABEL_THRESHOLD).astype(np.int64)
        return {"probabilities": probabilities, "indicators": indicators}
    return {"probabilities": probabilities, "class_id": probabilities.argmax(axis=1)}
