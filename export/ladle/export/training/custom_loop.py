"""A training loop of our own, as TensorFlow's tutorials write it: gradients by GradientTape."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.training.batches import training_batches, validation_batches
from ladle.export.training.checkpoints import Checkpoints
from ladle.export.training.options import TrainingOptions

# What compile() and fit() would do, and this loop does not.
_NOT_TAKEN = (
    "loss",
    "loss_weight",
    "metrics",
    "weighted_metrics",
    "validation_split",
    "validation_steps",
    "steps_per_execution",
)
# What is measured of every epoch, in the order in which it is printed.
_MEASURES = ("loss", "accuracy", "val_loss", "val_accuracy")
_CHOOSES = "val_accuracy"


def fit_in_custom_loop(
    model: Any,
    dataset: Dataset,
    options: TrainingOptions,
    optimizer: Any,
    weights: NDArray[np.float32] | None,
    checkpoints: Checkpoints | None,
    *,
    epochs: int,
    steps: int,
    verbose: int,
) -> tuple[dict[str, list[float]], int]:
    """Train the classifier `model` from one-hot labels; measure on held-out data after every epoch.

    Returns of each epoch loss and accuracy, and `val_loss` and `val_accuracy` of the held-out data;
    and the first epoch's number. Loss and accuracy of the training are measured while it learns.

    Raises:
        ValueError: It is a regression, or an option is given that this loop has no use for.
    """
    _check(options, dataset)
    model.compile(optimizer=optimizer)  # so that its state is kept with the model's
    best = _Best(model, options.early_stopping)
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)

    def step(images: Any, labels: Any, counts: Any = None) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = loss_of(labels, logits, sample_weight=counts)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss, _n_right(labels, logits)

    def measure(images: Any, labels: Any) -> tuple[Any, Any]:
        logits = model(images, training=False)
        return loss_of(labels, logits), _n_right(labels, logits)

    run = step if options.run_eagerly else tf.function(step)
    measured = measure if options.run_eagerly else tf.function(measure)
    batches = training_batches(dataset, options, weights, one_hot=True)
    held_out = validation_batches(dataset, _held_out(options), one_hot=True)
    assert held_out is not None  # which is measured on in any case
    # An epoch of a given number of steps goes on where the last one stopped.
    endless = iter(batches) if options.steps_per_epoch is not None else None
    history: dict[str, list[float]] = {name: [] for name in _MEASURES}
    done = 0 if checkpoints is None else checkpoints.restore(model)
    begin = max(options.initial_epoch, done)
    for epoch in range(begin, epochs):
        started = time.monotonic()
        if verbose:
            print(f"Epoch {epoch + 1}/{epochs}", flush=True)
        coming = islice(endless or iter(batches), steps)
        of_epoch = (*_means(run, _with_bar(coming, steps, verbose)), *_means(measured, held_out))
        for name, value in zip(_MEASURES, of_epoch, strict=True):
            history[name].append(value)
        if verbose:
            told = " - ".join(f"{name}: {values[-1]:.4f}" for name, values in history.items())
            print(f"{steps}/{steps} - {time.monotonic() - started:.0f}s - {told}", flush=True)
        if checkpoints is not None:
            checkpoints.save(model, epoch + 1)
        if best.is_too_long_ago(history[_CHOOSES]):
            break
    best.take()
    if checkpoints is not None:
        checkpoints.finish()
    return history, begin + 1


class _Best:
    """The weights of the best epoch so far."""

    def __init__(self, model: Any, patience: int | None) -> None:
        self._model = model
        self._patience = patience
        self._weights: list[NDArray[Any]] | None = None

    def is_too_long_ago(self, accuracies: list[float]) -> bool:
        """Return whether it is time to stop; `accuracies` are those of all epochs."""
        if self._patience is None:
            return False
        best = int(np.argmax(accuracies))
        if best == len(accuracies) - 1:
            self._weights = self._model.get_weights()
        return len(accuracies) - 1 - best >= self._patience

    def take(self) -> None:
        """Give them to the model."""
        if self._weights is not None:
            self._model.set_weights(self._weights)


def _check(options: TrainingOptions, dataset: Dataset) -> None:
    if dataset.is_regression:
        raise ValueError("recipe: one with a training loop of its own takes classes, not numbers")
    if dataset.is_multi_label:
        raise ValueError(
            "recipe: one with a training loop of its own takes one class an example, not several"
            " labels"
        )
    usual = TrainingOptions()
    for name in _NOT_TAKEN:
        if getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"{name.replace('_', ' ')}: the recipe has a training loop of its own, without it"
            )


def _held_out(options: TrainingOptions) -> TrainingOptions:
    batch_size = max(options.batch_size, 1024)
    if options.kept_aside:
        return TrainingOptions(validation_split=options.kept_aside, batch_size=batch_size)
    return TrainingOptions(validation="held-out", batch_size=batch_size)


def _with_bar(batches: Iterator[Any], steps: int, verbose: int) -> Iterator[Any]:
    """Yield the batches, and show how many are done where a progress bar is asked for."""
    bar = keras.utils.Progbar(steps) if verbose == 1 else None
    for number, batch in enumerate(batches, start=1):
        yield batch
        if bar is not None:
            bar.update(number)


def _n_right(labels: Any, logits: Any) -> Any:
    right = tf.argmax(logits, axis=1) == tf.argmax(labels, axis=1)
    return tf.reduce_sum(tf.cast(right, tf.int64))


def _means(function: Callable[..., tuple[Any, Any]], batches: Iterable[Any]) -> tuple[float, float]:
    """Call the function with each batch; return mean loss and accuracy over all examples."""
    n_examples = n_right = 0
    loss = 0.0
    for batch in batches:
        of_batch, right = function(*batch)
        loss += float(of_batch) * len(batch[0])
        n_right += int(right)
        n_examples += len(batch[0])
    return loss / n_examples, n_right / n_examples
