"""Feed a training through tf.data: shuffled, gathered, prepared in the graph, and ahead of time.

What is shuffled are the examples' numbers, by a function of each and of the epoch, without a list;
a batch's examples are read when it is its turn. So arrays larger than memory train, where they are
memory maps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.groups import grouped_holdout
from ladle.export.data.preparation import Preparation
from ladle.export.training.options import TrainingOptions


def training_batches(
    dataset: Dataset,
    options: TrainingOptions,
    weights: NDArray[np.float32] | None,
    *,
    one_hot: bool,
) -> Any:
    """Return batches (examples, targets) or, with `weights`, (examples, targets, weights).

    Without those that the validation split keeps aside; endless where an epoch has its own number
    of steps.
    """
    n_examples = n_training(dataset, options)
    numbers = tf.data.Dataset.range(n_examples).batch(options.batch_size)
    if options.shuffle:
        numbers = _shuffled(numbers, n_examples, options.seed)
    if options.steps_per_epoch is not None:
        numbers = numbers.repeat()
    return _gathered(
        _in_order(numbers, dataset, options),
        dataset,
        options,
        (dataset.x_train, dataset.y_train),
        weights,
        one_hot,
    )


def validation_batches(dataset: Dataset, options: TrainingOptions, *, one_hot: bool) -> Any | None:
    """Return the batches to measure on after every epoch; None where that is not asked for."""
    if options.kept_aside:
        arrays = (dataset.x_train, dataset.y_train)
        numbers = tf.data.Dataset.range(n_training(dataset, options), len(dataset.x_train))
        batches = _in_order(numbers.batch(options.batch_size), dataset, options)
    elif options.measures_held_out:
        arrays = (dataset.x_test, dataset.y_test)
        batches = tf.data.Dataset.range(len(dataset.x_test)).batch(options.batch_size)
    else:
        return None
    return _gathered(batches, dataset, options, arrays, None, one_hot)


def prepared_batches(raw: NDArray[Any], preparation: Preparation, batch_size: int) -> Any:
    """Return the examples `raw` in their order, prepared, in batches without targets."""

    def read(chosen: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(raw[chosen])

    def gather(chosen: Any) -> Any:
        batch = tf.numpy_function(read, [chosen], tf.as_dtype(raw.dtype), stateful=False)
        batch.set_shape([None, *raw.shape[1:]])
        return preparation.in_graph(batch)

    return tf.data.Dataset.range(len(raw)).batch(batch_size).map(gather).prefetch(1)


def n_training(dataset: Dataset, options: TrainingOptions) -> int:
    """Return how many examples are trained on.

    Raises:
        ValueError: The validation split leaves none.
    """
    if dataset.groups is not None and options.kept_aside:
        return int((~_groups_aside(dataset, options)).sum())
    # A float's rounding takes no example away: of 10, a split of 0.9 leaves one.
    n_examples = math.floor(len(dataset.x_train) * (1 - options.kept_aside) + 1e-9)
    if not n_examples:
        raise ValueError(
            f"validation split: {options.kept_aside:g} of {len(dataset.x_train)} examples"
            " leaves none to train on"
        )
    return n_examples


def aside_last(dataset: Dataset, options: TrainingOptions) -> NDArray[np.int64] | None:
    """Return the training examples' numbers, those to measure on last; None for their own order.

    The last ones of each class are kept aside: data often come class by class. Of data in groups,
    whole groups are.
    """
    if not options.kept_aside:
        return None
    if dataset.groups is not None:
        aside = _groups_aside(dataset, options)
        return np.concatenate([np.flatnonzero(~aside), np.flatnonzero(aside)])
    if dataset.is_regression or dataset.is_multi_label:
        return None
    n_trained = n_training(dataset, options)
    _, classes, counts = np.unique(dataset.y_train, return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    starts = np.cumsum(counts) - counts
    places = np.empty(len(classes))
    places[by_class] = np.arange(len(classes)) - starts[classes[by_class]]
    # Where in its class an example stands, 0 to 1.
    order = np.argsort((places + 0.5) / counts[classes], kind="stable")
    return np.concatenate([np.sort(order[:n_trained]), np.sort(order[n_trained:])])


def _groups_aside(dataset: Dataset, options: TrainingOptions) -> NDArray[np.bool_]:
    """Return which training examples are kept aside: whole groups of them.

    Raises:
        ValueError: There are too few groups.
    """
    assert dataset.groups is not None
    numbers = dataset.is_regression or dataset.is_multi_label
    classes = np.zeros(len(dataset.groups)) if numbers else dataset.y_train
    aside = grouped_holdout(dataset.groups, classes.astype(np.int64), options.kept_aside)
    if not aside.any():
        raise ValueError(
            f"validation split: the training examples of {dataset.name} have too few groups to"
            " keep one aside"
        )
    return aside


def _in_order(batches: Any, dataset: Dataset, options: TrainingOptions) -> Any:
    order = aside_last(dataset, options)
    if order is None:
        return batches

    def look_up(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return order[numbers]

    def in_order(numbers: Any) -> Any:
        found = tf.numpy_function(look_up, [numbers], tf.int64, stateful=False)
        found.set_shape([None])
        return found

    return batches.map(in_order)


def _shuffled(numbers: Any, n_examples: int, seed: int) -> Any:
    """Return batches of the numbers 0 to n-1 in another order each time that they are gone over."""
    orders = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)

    def in_order(order: Any) -> Any:
        def places(some: Any) -> Any:
            return tf.random.experimental.index_shuffle(some, [order, order], n_examples - 1)

        return numbers.map(places)

    # Keras asks how many there are, which flat_map can't tell.
    count = tf.data.experimental.assert_cardinality(numbers.cardinality())
    return orders.take(1).flat_map(in_order).apply(count)


def _gathered(
    numbers: Any,
    dataset: Dataset,
    options: TrainingOptions,
    arrays: tuple[NDArray[Any], NDArray[Any]],
    weights: NDArray[np.float32] | None,
    one_hot: bool,
) -> Any:
    examples, targets = arrays
    has_numbers = dataset.is_regression or dataset.is_multi_label
    target_type = np.float32 if has_numbers else np.int64
    read_types = [tf.as_dtype(examples.dtype), tf.as_dtype(target_type), tf.float32]

    def read(chosen: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        some = np.ones(len(chosen), np.float32) if weights is None else weights[chosen]
        return np.asarray(examples[chosen]), targets[chosen].astype(target_type), some

    def gather(chosen: Any) -> tuple[Any, ...]:
        batch, classes, counts = tf.numpy_function(read, [chosen], read_types, stateful=False)
        batch.set_shape([None, *examples.shape[1:]])
        classes.set_shape([None, *targets.shape[1:]])
        counts.set_shape([None])
        prepared = dataset.preparation.in_graph(batch)
        wanted = tf.one_hot(classes, len(dataset.labels)) if one_hot else classes
        return (prepared, wanted) if weights is None else (prepared, wanted, counts)

    workers = tf.data.AUTOTUNE if options.data_workers is None else options.data_workers
    ahead = tf.data.AUTOTUNE if options.prefetch is None else options.prefetch
    prepared = numbers.map(gather, num_parallel_calls=workers, deterministic=True).prefetch(ahead)
    if options.data_workers is None:
        return prepared
    # The threads that all share are as many as the cores; these may wait for a disk, too.
    threads = tf.data.Options()
    threads.threading.private_threadpool_size = options.data_workers
    return prepared.with_options(threads)
