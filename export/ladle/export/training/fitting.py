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
from ladle.export.training.callbacks import make_callbacks
from ladle.export.training.checkpoints import Checkpoints
from ladle.export.training.metrics import make_metrics
from ladle.export.training.options import TrainingOptions
from ladle.export.training.outputs import OutputKind, cross_entropy, output_kind
from ladle.export.training.recipes import Recipe
from ladle.export.training.running import run_fit
from ladle.export.training.vocabularies import check_vocabularies, learn_vocabularies

Verbosity = Literal[0, 1, 2]
"""What Keras prints to stdout: nothing, a progress bar, or a line for each epoch."""

History = Mapping[str, Sequence[float]]
"""Loss and metrics, one number for each epoch that was trained."""

_PREDICT_BATCH_SIZE = 1024
_UNTRAINED_EXAMPLES = 256
_SHOWN_CLASSES = 10


class Trained:
    """A trained Keras model, from prepared examples [-1, ...] to what its task asks for.

    A classifier gives logits [-1, classes], or probabilities where it has a softmax or sigmoids of
    its own. A regression gives values [-1, 1], or [-1, n] for
    `n_values` numbers an example.
    """

    def __init__(
        self,
        model: Any,
        *,
        gives: OutputKind = "logits",
        is_multi_label: bool = False,
        n_values: int | None = None,
        history: History | None = None,
        first_epoch: int = 1,
    ) -> None:
        self.model = model
        self.gives = gives
        self.is_multi_label = is_multi_label
        """Whether an example may have several labels: each has a probability by itself."""
        self.is_regression = gives == "values"
        self.n_values = n_values
        """How many numbers a regression gives an example; None for one, without a dimension."""
        self.has_logits = gives == "logits"
        self.sums_to_1 = gives in ("logits", "softmax") and not is_multi_label
        """Whether the probabilities of an example do."""
        self.history: History = history or {}
        self.first_epoch = first_epoch
        """The number of the first epoch in the history: a training may go on from another."""

    def logits(self, batch: Any) -> Any:
        """Return what the model gives for a batch of tensors, untouched."""
        return self.model(batch, training=False)

    def probabilities_of(self, batch: Any) -> Any:
        """Return a classifier's probabilities for a batch of tensors, [examples, classes]."""
        return self.activated(self.logits(batch))

    def activated(self, outputs: Any) -> Any:
        """Return the probabilities that the outputs of a classifier stand for."""
        if not self.has_logits:
            return outputs
        return tf.nn.sigmoid(outputs) if self.is_multi_label else tf.nn.softmax(outputs)

    def values(self, batch: Any) -> Any:
        """Return a regression's values for a batch of tensors, [examples] or [examples, n]."""
        return tf.reshape(self.logits(batch), self._values_shape)

    def values_of(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the values that the outputs of a regression stand for."""
        return outputs.reshape(self._values_shape)

    @property
    def _values_shape(self) -> list[int]:
        return [-1] if self.n_values is None else [-1, self.n_values]

    def raw_outputs(self, examples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what Keras itself predicts for prepared `examples`."""
        outputs: NDArray[np.float32] = self.model.predict(
            examples, batch_size=_PREDICT_BATCH_SIZE, verbose=0
        )
        return outputs

    def answers(self, raw: NDArray[Any], preparation: Preparation) -> NDArray[np.float32]:
        """Return a classifier's probabilities [examples, classes], or a regression's `values`.

        The `raw` examples are read batch by batch, and so may be more than fit in memory.
        """
        batches = prepared_batches(raw, preparation, _PREDICT_BATCH_SIZE)
        outputs: NDArray[np.float32] = self.model.predict(batches, verbose=0)
        if self.is_regression:
            return self.values_of(outputs)
        if not self.has_logits:
            return outputs
        probabilities: NDArray[np.float32] = self.activated(outputs).numpy()
        return probabilities


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
    if isinstance(options.loss_weight, Mapping):
        raise ValueError(
            "loss weight: expected a number, since the model has one output, got one for"
            f" {', '.join(options.loss_weight)}"
        )
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
            model = recipe.build(preparation.model_shape, dataset.n_outputs)
            gives: OutputKind = "values" if dataset.is_regression else "logits"
            learn_vocabularies(model, dataset)
        else:
            learn_vocabularies(model, dataset)
            check_vocabularies(model)
            gives = output_kind(model, dataset)
        trained = Trained(
            model,
            gives=gives,
            is_multi_label=dataset.is_multi_label,
            n_values=dataset.n_values,
        )
        if verbose and not dataset.is_regression:
            _print_untrained(trained, dataset)
        trained.history, trained.first_epoch = _fit(
            model,
            dataset,
            recipe,
            options,
            checkpoints,
            gives=gives,
            verbose=verbose,
        )
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(
            f"{dataset.name}: no room to train on {len(dataset.x_train)} {dataset.what}"
            f" of {list(dataset.image_shape)}"
        ) from error
    return trained


def _print_untrained(trained: Trained, dataset: Dataset) -> None:
    """Print what the model says before its training, beside what guessing would give."""
    few = dataset.preparation.apply(dataset.x_train[:_UNTRAINED_EXAMPLES])
    probabilities = np.asarray(trained.probabilities_of(tf.constant(few)))
    loss = cross_entropy(probabilities, dataset.y_train[:_UNTRAINED_EXAMPLES])
    guesses = 2 if dataset.is_multi_label else len(dataset.labels)
    first = ", ".join(f"{p:.3f}" for p in probabilities[0, :_SHOWN_CLASSES])
    more = ", ..." if len(dataset.labels) > _SHOWN_CLASSES else ""
    print(
        f"Before training: loss {loss:.4f}, and guessing gives -ln(1/{guesses}) ="
        f" {math.log(guesses):.4f}; probabilities of the first example: {first}{more}",
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
    gives: OutputKind,
    verbose: Verbosity,
) -> tuple[History, int]:
    from_logits = gives == "logits"
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
    loss = compilation.make_loss(options, dataset, from_logits=from_logits)
    one_hot = compilation.takes_one_hot(loss, dataset)
    metrics, weighted = (
        make_metrics(
            names,
            gives=gives,
            n_classes=len(dataset.labels),
            is_multi_label=dataset.is_multi_label,
        )
        for names in (options.metrics, options.weighted_metrics)
    )
    model.compile(
        optimizer=optimizer,
        loss=loss,
        loss_weights=None if options.loss_weight is None else [options.loss_weight],
        metrics=[compilation.usual_metric(dataset, from_logits=from_logits), *metrics],
        weighted_metrics=weighted,
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    done = 0 if checkpoints is None else checkpoints.restore(model)
    validation = validation_batches(dataset, options, one_hot=one_hot)
    history = run_fit(
        model,
        training_batches(dataset, options, weights, one_hot=one_hot),
        shuffle=False,  # the batches come shuffled
        epochs=epochs,
        initial_epoch=max(options.initial_epoch, done),
        steps_per_epoch=options.steps_per_epoch,
        validation_data=validation,
        validation_steps=None if validation is None else options.validation_steps,
        callbacks=make_callbacks(model, options, checkpoints, validated=validation is not None),
        verbose=verbose,
    )
    if checkpoints is not None:
        checkpoints.finish()
    measured = {
        name: [float(value) for value in values] for name, values in history.history.items()
    }
    return measured, 1 + min(history.epoch, default=0)
