"""Keras's metrics by their names, fed with what each of them takes.

A metric such as precision takes a row of 0s and 1s for each example, and probabilities. A training
has the number of a class, and often logits. Keras would compare the two as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from ladle.export.training.outputs import OutputKind

Feed = Callable[[Any, Any], tuple[Any, Any]]
"""Takes targets and outputs, and returns both as a metric takes them."""

_CHOSEN_BY_LOSS = ("accuracy", "acc", "crossentropy", "ce")
# Of two classes these are about the second: whether it is found.
_OF_SECOND = {
    "AUC",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "FalseNegatives",
    "FalsePositives",
    "Precision",
    "PrecisionAtRecall",
    "Recall",
    "RecallAtPrecision",
    "SensitivityAtSpecificity",
    "SpecificityAtSensitivity",
    "TrueNegatives",
    "TruePositives",
}


def check_metrics(names: Sequence[str]) -> None:
    """See that Keras has metrics of these names, which take no more than that.

    Raises:
        ValueError: It has not.
    """
    for name in names:
        if name not in _CHOSEN_BY_LOSS:
            _made(name)


def make_metrics(
    names: Sequence[str], *, gives: OutputKind, n_classes: int, is_multi_label: bool = False
) -> list[Any]:
    """Return new metrics of these names, for `compile`.

    Args:
        names: Of Keras. `accuracy` and `crossentropy` are left for Keras to choose.
        gives: What the model's output is.
        n_classes: How many classes or labels there are; 0 for a regression.
        is_multi_label: Whether an example may have several labels.

    Raises:
        ValueError: Keras has none of that name, or it takes more than its name.
    """
    if gives == "values":
        return [name if name in _CHOSEN_BY_LOSS else _made(name) for name in names]
    metrics: list[Any] = []
    for name in names:
        if name in _CHOSEN_BY_LOSS:
            metrics.append(name)
            continue
        metric = _made(name)
        feed = _feed_for(metric, gives, n_classes, is_multi_label)
        metrics.append(Fed(metric, feed))
    return metrics


class Fed(keras.metrics.Metric):  # type: ignore[misc]
    """A metric that is fed with other targets and outputs than those of the training."""

    def __init__(self, metric: Any, feed: Feed) -> None:
        super().__init__(name=metric.name)
        self._metric = metric
        self._feed = feed

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take a batch."""
        self._metric.update_state(*self._feed(y_true, y_pred), sample_weight=sample_weight)

    def result(self) -> Any:
        """Return the metric over the batches since the last reset."""
        return self._metric.result()

    def reset_state(self) -> None:
        """Forget all batches."""
        self._metric.reset_state()


def _made(name: str) -> Any:
    try:
        found = keras.metrics.get(name)
        if isinstance(found, keras.metrics.Metric):
            # Of several classes one number is wanted, where Keras gives one for each.
            takes_average = "average" in inspect.signature(type(found)).parameters
            more = {"average": "macro"} if takes_average else {}
            return type(found)(name=name, **more)
    except ValueError:
        raise ValueError(f"metrics: expected those of Keras, got {name}") from None
    except TypeError as error:
        raise ValueError(f"metrics: {name} takes more than its name: {error}") from None
    return keras.metrics.MeanMetricWrapper(found, name=name)


def _feed_for(metric: Any, gives: OutputKind, n_classes: int, is_multi_label: bool) -> Feed:
    kind = type(metric).__name__

    def feed(targets: Any, outputs: Any) -> tuple[Any, Any]:
        targets, outputs = tf.convert_to_tensor(targets), tf.convert_to_tensor(outputs)
        is_second_class = not is_multi_label and n_classes == 2 and outputs.shape[-1] == 1
        if gives == "logits":
            by_itself = is_multi_label or is_second_class
            outputs = tf.sigmoid(outputs) if by_itself else tf.nn.softmax(outputs)
        if is_multi_label:
            return targets, outputs
        if is_second_class:
            outputs = tf.concat([1 - outputs, outputs], axis=-1)
        if targets.shape.rank == 2 and targets.shape[1] == n_classes > 1:
            classes = tf.argmax(targets, axis=1)
        else:
            classes = tf.cast(tf.reshape(targets, [-1]), tf.int64)
        if kind.startswith("Sparse"):
            return classes, outputs
        if n_classes == 2 and kind in _OF_SECOND:
            return classes[:, tf.newaxis], outputs[:, -1:]
        return tf.one_hot(classes, n_classes), outputs

    return feed
