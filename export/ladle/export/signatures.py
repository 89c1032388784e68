"""Write a classifier as a SavedModel with serving signatures, and read them back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.errors import CheckError, PublishError
from ladle.export.training import Classifier
from ladle.protos.model_card import Normalization

NORMALIZED = "serving_default"
"""Takes normalised float32 images."""
RAW = "serving_uint8"
"""Takes raw uint8 pixels and normalises them in the graph."""
INPUT = "images"
OUTPUT = "probabilities"


def write_saved_model(
    classifier: Classifier,
    image_shape: tuple[int, ...],
    normalization: Normalization,
    folder: Path,
) -> None:
    """Write `classifier` into the existing `folder`, with softmax attached.

    Both signatures take `images` [-1, *image_shape] and give `probabilities` float32
    [-1, classes]. Only what they compute with is written: no dropout, optimizer or random state.

    Raises:
        PublishError: The folder cannot be written.
    """

    def from_normalized(images: Any) -> dict[str, Any]:
        return {OUTPUT: tf.nn.softmax(classifier.model(images, training=False))}

    def from_raw(images: Any) -> dict[str, Any]:
        return from_normalized(_normalize(images, normalization))

    # The model is not track()ed: that would write every variable a second time, and dropout's.
    archive = keras.export.ExportArchive()
    for name, function, dtype in (
        (NORMALIZED, from_normalized, tf.float32),
        (RAW, from_raw, tf.uint8),
    ):
        archive.add_endpoint(name, function, [tf.TensorSpec([None, *image_shape], dtype, INPUT)])
    try:
        archive.write_out(str(folder), verbose=False)
    except tf.errors.OpError as error:
        raise PublishError(f"{folder.parent}: cannot publish: {_reason(error)}") from error


def _normalize(pixels: Any, normalization: Normalization) -> Any:
    """Do in the graph what `Normalization.apply` does in NumPy."""
    normalized = tf.cast(pixels, tf.float32)
    if np.any(normalization.offset):
        normalized -= tf.constant(normalization.offset, tf.float32)
    return normalized / tf.constant(normalization.divisor, tf.float32)


def _reason(error: Any) -> str:
    """Return what the system said, without TensorFlow's names for nodes and temporary files."""
    message: str = error.message
    return message.rpartition("; ")[2].partition(" [Op:")[0]


class Signature:
    """One signature of a SavedModel that was read back, from `images` to `probabilities`."""

    def __init__(self, saved_model: Any, name: str) -> None:
        self._saved_model = saved_model  # its variables live as long as this object
        self._function = saved_model.signatures[name]

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the probabilities, [images, classes]."""
        outputs = self._function(**{INPUT: tf.constant(images)})
        probabilities: NDArray[np.float32] = outputs[OUTPUT].numpy()
        return probabilities

    def declared(self) -> dict[str, dict[str, Any]]:
        """Return inputs and outputs, each name to its dtype and shape; -1 is any size."""
        _, inputs = self._function.structured_input_signature
        return {
            "inputs": {name: _declared(spec) for name, spec in inputs.items()},
            "outputs": {
                name: _declared(spec) for name, spec in self._function.structured_outputs.items()
            },
        }


def read_signatures(folder: Path) -> Mapping[str, Signature]:
    """Load the SavedModel in `folder`, and return its signatures by name.

    Raises:
        CheckError: It does not load.
    """
    try:
        saved_model = tf.saved_model.load(str(folder))
    except (OSError, ValueError, tf.errors.OpError) as error:
        raise CheckError(f"{folder}: the written SavedModel does not load: {error}") from error
    return {name: Signature(saved_model, name) for name in saved_model.signatures}


def _declared(spec: Any) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"dtype": spec.dtype.name, "shape": shape}
