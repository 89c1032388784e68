"""Train a recipe on a data set, and ask the result for probabilities."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.dataset import Dataset
from ladle.export.errors import ExportError
from ladle.export.options import TrainingOptions
from ladle.export.recipes import Recipe

Verbosity = Literal[0, 1, 2]
"""What Keras prints to stdout: nothing, a progress bar, or a line for each epoch."""

# Adam starts here and falls to 0 along a cosine. On MNIST, 5 epochs and batches of 128, three seeds
# gave 0.979 to 0.980 of the held-out images; a constant 0.001 and batches of 32, 0.975 to 0.980.
_PEAK_LEARNING_RATE = 0.004
_PREDICT_BATCH_SIZE = 1024


class Classifier:
    """A trained Keras model from normalised images [-1, ...] to logits [-1, classes]."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the softmax of the model's logits, [images, classes]."""
        logits = self.model.predict(images, batch_size=_PREDICT_BATCH_SIZE, verbose=0)
        softmax: NDArray[np.float32] = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        return softmax


def train(
    dataset: Dataset, recipe: Recipe, options: TrainingOptions, *, verbose: Verbosity = 0
) -> Classifier:
    """Train `recipe` on the training part of `dataset`, on logits and with Adam.

    Seeds the random numbers of Python, NumPy and TensorFlow for the whole process, so that one
    seed gives one model on one machine. Holds the training images as float32 meanwhile, four
    times their size.

    Raises:
        ExportError: Keras runs on another backend than TensorFlow, which no SavedModel comes from.
        MemoryError: The model or the images do not fit.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"keras: expected the backend tensorflow, got {backend}; set KERAS_BACKEND=tensorflow"
        )
    keras.utils.set_random_seed(options.seed)
    try:
        return Classifier(_fit(dataset, recipe, options, verbose))
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(
            f"{dataset.name}: no room to train on {len(dataset.x_train)} images"
            f" of {list(dataset.image_shape)}"
        ) from error


def _fit(dataset: Dataset, recipe: Recipe, options: TrainingOptions, verbose: Verbosity) -> Any:
    n_images = len(dataset.x_train)
    epochs = options.epochs_for(n_images)
    steps = epochs * math.ceil(n_images / options.batch_size)
    model = recipe.build(dataset.image_shape, len(dataset.labels))
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(_PEAK_LEARNING_RATE, steps)
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        dataset.normalization.apply(dataset.x_train),
        dataset.y_train.astype(np.int64),
        batch_size=options.batch_size,
        epochs=epochs,
        verbose=verbose,
    )
    return model
