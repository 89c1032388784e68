"""Train a model on a data set, and ask the result for its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.preparation import Preparation
from ladle.export.errors import ExportError
from ladle.export.training import compilation
from ladle.export.training.batches import (
    n_training,
    prepared_batches,
    training_batches,
    validation_batches,
)
from ladle.export.training.checkpoints import Checkpoints
from ladle.export.training.options import TrainingOptions
from ladle.export.training.recipes import Recipe

Verbosity = Literal[0, 1, 2]
"""What Keras prints to stdout: nothing, a progress bar, or a line for each epoch."""

History = Mapping[str, Sequence[float]]
"""Loss and metrics, one number for each epoch that was trained."""

_PREDICT_BATCH_SIZE = 1024
_FEW = 16
_UNTRAINED_EXAMPLES = 256
_SHOWN_CLASSES = 10
# Half precision adds up the probabilities of many classes no better.
_OFF_BY = 0.01


class Trained:
    """A trained Keras model, from prepared examples [-1, ...] to what its task asks for.

    A classifier gives logits [-1, classes], or probabilities where it has a softmax of its own. A
    regression gives values [-1, 1].
    """

    def __init__(
        self,
        model: Any,
        *,
        is_regression: bool = False,
        has_softmax: bool = False,
        history: History | None = None,
        first_epoch: int = 1,
    ) -> None:
        self.model = model
        self.is_regression = is_regression
        self.has_logits = not is_regression and not has_softmax
        self.history: History = history or {}
        self.first_epoch = first_epoch
        """The number of the first epoch in the history: a training may go on from another."""

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

    def answers(self, raw: NDArray[Any], preparation: Preparation) -> NDArray[np.float32]:
        """Return a classifier's probabilities [examples, classes], or a regression's values.

        The `raw` examples are read batch by batch, and so may be more than fit in memory.
        """
        batches = prepared_batches(raw, preparation, _PREDICT_BATCH_SIZE)
        outputs: NDArray[np.float32] = self.model.predict(batches, verbose=0)
        if self.is_regression:
            return outputs.reshape(-1)
        if self.has_logits:
            softmax: NDArray[np.float32] = keras.ops.convert_to_numpy(keras.ops.softmax(outputs))
            return softmax
        return outputs


def train(
    dataset: Dataset,
    recipe: Recipe,
    options: TrainingOptions,
    *,
    model: Any | None = None,
    verbose: Verbosity = 0,
) -> Trained:
    """Train `recipe`, or a `model` that is there already, on the training part of `dataset`.

    Seeds the random numbers of Python, NumPy and TensorFlow for the whole process, so that one
    seed gives one model on one machine.

    Raises:
        ExportError: Keras runs on another backend than TensorFlow, which no SavedModel comes from;
            or checkpoints cannot be written where they shall be, or what is there is damaged.
        MemoryError: The model or the images do not fit.
        ValueError: An option does not suit the data, the recipe or Keras; the message names it.
    """
    check_backend()
    checkpoints = None
    if options.checkpoint_dir is not None:
        checkpoints = Checkpoints(options.checkpoint_dir)
    if options.loss is not None and options.is_regression != dataset.is_regression:
        kind = "numbers" if dataset.is_regression else "classes"
        raise ValueError(f"loss: {options.loss} does not suit targets that are {kind}")
    keras.utils.set_random_seed(options.seed)
    try:
        if model is None:
            preparation = dataset.preparation
            model = recipe.build(preparation.model_shape, len(dataset.labels) or 1)
            softmax = False
        else:
            softmax = has_softmax(model, dataset)
        if verbose and not dataset.is_regression:
            _print_untrained(model, dataset, has_softmax=softmax)
        history, first_epoch = _fit(
            model, dataset, recipe, options, checkpoints, from_logits=not softmax, verbose=verbose
        )
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(
            f"{dataset.name}: no room to train on {len(dataset.x_train)} {dataset.what}"
            f" of {list(dataset.image_shape)}"
        ) from error
    return Trained(
        model,
        is_regression=dataset.is_regression,
        has_softmax=softmax,
        history=history,
        first_epoch=first_epoch,
    )


def has_softmax(model: Any, dataset: Dataset) -> bool:
    """Return whether a classifier's answers to some examples are probabilities for each class.

    Wherever its softmax is: in a layer, in a model inside it, or in code. Logits are that by
    chance at no time.
    """
    if dataset.is_regression:
        return False
    few = dataset.preparation.apply(dataset.x_train[:_FEW])
    answers = np.asarray(model(few, training=False), np.float64)
    return bool(np.all(answers >= 0) and np.all(np.abs(answers.sum(axis=-1) - 1) < _OFF_BY))


def _print_untrained(model: Any, dataset: Dataset, *, has_softmax: bool) -> None:
    """Print what the model says before its training, beside what guessing would give."""
    few = dataset.preparation.apply(dataset.x_train[:_UNTRAINED_EXAMPLES])
    targets = dataset.y_train[:_UNTRAINED_EXAMPLES].astype(np.int64)
    outputs = keras.ops.cast(model(few, training=False), "float32")
    probabilities = outputs if has_softmax else keras.ops.softmax(outputs)
    losses = keras.losses.sparse_categorical_crossentropy(targets, probabilities)
    loss, n_classes = float(np.mean(losses)), len(dataset.labels)
    first = ", ".join(f"{p:.3f}" for p in np.asarray(probabilities)[0, :_SHOWN_CLASSES])
    more = ", ..." if n_classes > _SHOWN_CLASSES else ""
    print(
        f"Before training: loss {loss:.4f}, and guessing gives ln({n_classes}) ="
        f" {math.log(n_classes):.4f}; probabilities of the first example: {first}{more}",
        flush=True,
    )


def check_backend() -> None:
    """See that Keras runs on TensorFlow.

    Raises:
        ExportError: It runs on something else.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ExportError(
            f"keras: expected the backend tensorflow, got {backend}; set KERAS_BACKEND=tensorflow"
        )


def _fit(
    model: Any,
    dataset: Dataset,
    recipe: Recipe,
    options: TrainingOptions,
    checkpoints: Checkpoints | None,
    *,
    from_logits: bool,
    verbose: Verbosity,
) -> tuple[History, int]:
    epochs = options.epochs_for(len(dataset.x_train), recipe.EPOCHS)
    if options.initial_epoch >= epochs:
        raise ValueError(
            f"initial epoch: expected less than the {epochs} epochs to train,"
            f" got {options.initial_epoch}"
        )
    steps = options.steps_per_epoch or math.ceil(n_training(dataset, options) / options.batch_size)
    optimizer = compilation.make_optimizer(options, epochs * steps)
    weights = compilation.example_weights(dataset, options)
    if recipe.CUSTOM_LOOP:
        from ladle.export.training.custom_loop import fit_in_custom_loop

        return fit_in_custom_loop(
            model,
            dataset,
            options,
            optimizer,
            weights,
            checkpoints,
            epochs=epochs,
            steps=steps,
            verbose=verbose,
        )
    is_regression = dataset.is_regression
    loss = compilation.make_loss(options, is_regression=is_regression, from_logits=from_logits)
    one_hot = compilation.takes_one_hot(loss, is_regression=is_regression)
    compilation.check_metrics((*options.metrics, *options.weighted_metrics))
    model.compile(
        optimizer=optimizer,
        loss=loss,
        loss_weights=None if options.loss_weight is None else [options.loss_weight],
        metrics=["mae" if is_regression else "accuracy", *options.metrics],
        weighted_metrics=list(options.weighted_metrics),
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    done = 0 if checkpoints is None else checkpoints.restore(model)
    validation = validation_batches(dataset, options, one_hot=one_hot)
    history = model.fit(
        training_batches(dataset, options, weights, one_hot=one_hot),
        shuffle=False,  # the batches come shuffled
        epochs=epochs,
        initial_epoch=max(options.initial_epoch, done),
        steps_per_epoch=options.steps_per_epoch,
        validation_data=validation,
        validation_steps=None if validation is None else options.validation_steps,
        callbacks=_callbacks(model, options, checkpoints, validated=validation is not None),
        verbose=verbose,
    )
    if checkpoints is not None:
        checkpoints.finish()
    measured = {
        name: [float(value) for value in values] for name, values in history.history.items()
    }
    return measured, 1 + min(history.epoch, default=0)


def _callbacks(
    model: Any, options: TrainingOptions, checkpoints: Checkpoints | None, *, validated: bool
) -> list[Any]:
    callbacks = []
    if checkpoints is not None:

        def save(epoch: int, _logs: Any) -> None:
            checkpoints.save(model, epoch + 1)

        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=save))
    if options.early_stopping is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping(
                "val_loss" if validated else "loss",
                patience=options.early_stopping,
                restore_best_weights=True,
            )
        )
    return callbacks
