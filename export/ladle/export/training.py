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


class Trained:
    """A trained Keras model, from prepared examples [-1, ...] to what its task asks for.

    A classifier gives logits [-1, classes], or probabilities where its last layer is a softmax of
    its own. A regression gives values [-1] or [-1, 1].
    """

    def __init__(self, model: Any, *, is_regression: bool = False) -> None:
        self.model = model
        self.is_regression = is_regression
        last = model.layers[-1] if getattr(model, "layers", None) else None
        softmaxed = isinstance(last, keras.layers.Softmax) or (
            getattr(last, "activation", None) is keras.activations.softmax
        )
        self.has_logits = not is_regression and not softmaxed

    def logits(self, batch: Any) -> Any:
        """Return what the model gives for a batch of tensors, untouched."""
        return self.model(batch, training=False)

    def probabilities_of(self, batch: Any) -> Any:
        """Return a classifier's probabilities for a batch of tensors, [examples, classes]."""
        return tf.nn.softmax(self.logits(batch)) if self.has_logits else self.logits(batch)

    def values(self, batch: Any) -> Any:
        """Return a regression's values for a batch of tensors, [examples]."""
        return tf.reshape(self.logits(batch), [-1])

    def raw_outputs(self, examples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what Keras itself predicts for prepared `examples`."""
        outputs: NDArray[np.float32] = self.model.predict(
            examples, batch_size=_PREDICT_BATCH_SIZE, verbose=0
        )
        return outputs

    def probabilities(self, examples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a classifier's probabilities for prepared `examples`, [examples, classes]."""
        outputs = self.raw_outputs(examples)
        if not self.has_logits:
            return outputs
        softmax: NDArray[np.float32] = keras.ops.convert_to_numpy(keras.ops.softmax(outputs))
        return softmax


def train(
    dataset: Dataset, recipe: Recipe, options: TrainingOptions, *, verbose: Verbosity = 0
) -> Trained:
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
        model = _fit(dataset, recipe, options, verbose)
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(
            f"{dataset.name}: no room to train on {len(dataset.x_train)} images"
            f" of {list(dataset.image_shape)}"
        ) from error
    return Trained(model, is_regression=dataset.is_regression)


def _fit(dataset: Dataset, recipe: Recipe, options: TrainingOptions, verbose: Verbosity) -> Any:
    n_images = len(dataset.x_train)
    epochs = options.epochs_for(n_images)
    steps = epochs * math.ceil(n_images / options.batch_size)
    model = recipe.build(dataset.preparation.model_shape, len(dataset.labels) or 1)
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    targets = dataset.y_train
    if dataset.is_regression:
        loss = keras.losses.MeanSquaredError()
    else:
        targets = targets.astype(np.int64)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(_PEAK_LEARNING_RATE, steps)
        ),
        loss=loss,
        metrics=["mae" if dataset.is_regression else "accuracy"],
    )
    model.fit(
        dataset.preparation.apply(dataset.x_train),
        targets,
        batch_size=options.batch_size,
        epochs=epochs,
        verbose=verbose,
    )
    return model
