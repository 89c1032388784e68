"""Train a model with several inputs or outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.multi_io.data import ONLY, Arrays, MultiDataset
from ladle.export.multi_io.model import NamedModel, Output
from ladle.export.training.callbacks import make_callbacks
from ladle.export.training.checkpoints import Checkpoints
from ladle.export.training.compilation import (
    class_weights,
    loss_named,
    make_optimizer,
)
from ladle.export.training.metrics import check_metrics, make_metrics
from ladle.export.training.options import TrainingOptions
from ladle.export.training.running import run_fit

# What these trainings do not take, and why.
_NOT_TAKEN = {
    "data_workers": "the examples are in memory, and nothing prepares them",
    "prefetch": "the examples are in memory, and nothing prepares them",
}
_USUAL_EPOCHS = 5


def check_options(options: TrainingOptions, dataset: MultiDataset) -> None:
    """Refuse options that a model with several inputs or outputs does not take.

    Raises:
        ValueError: One is given; or a loss or weight is for an output that there is not.
    """
    usual = TrainingOptions()
    for name, why in _NOT_TAKEN.items():
        if getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"{name.replace('_', ' ')}: not taken for a model with several inputs or outputs:"
                f" {why}"
            )
    _by_output("loss", _losses(options), dataset)
    _by_output("loss weight", _weights(options), dataset)
    for what, given in (
        ("metrics", options.metrics),
        ("weighted metrics", options.weighted_metrics),
    ):
        by_output = _metrics(given)
        _by_output(what, {name: ", ".join(names) for name, names in by_output.items()}, dataset)
        check_metrics(tuple(name for names in by_output.values() for name in names))
    if options.class_weights is not None and [*map(dataset.task, dataset.y_train)] != ["classes"]:
        raise ValueError(
            "class weights: expected one output, with classes; weigh examples instead, with an"
            " array sample_weight"
        )


def fit(
    named: NamedModel, dataset: MultiDataset, options: TrainingOptions, verbose: int
) -> tuple[Mapping[str, list[float]], int]:
    """Train the model; return its history, loss and metrics of each epoch, and the first's number.

    Seeds the random numbers of Python, NumPy and TensorFlow for the whole process.

    Raises:
        ExportError: Checkpoints cannot be written where they shall be, or what is there is damaged.
        ValueError: An option does not suit the data or Keras; the message names it.
    """
    checkpoints = None if options.checkpoint_dir is None else Checkpoints(options.checkpoint_dir)
    keras.utils.set_random_seed(options.seed)
    n_aside = round(dataset.n_train * options.kept_aside)
    # Data often come class by class: what is kept aside is of all of them.
    order = np.random.default_rng(options.seed).permutation(dataset.n_train)
    aside, trained = order[:n_aside], np.sort(order[n_aside:])
    if not len(trained):
        raise ValueError("validation split: leaves no example to train on")
    epochs = options.epochs_for(len(trained), _USUAL_EPOCHS)
    if options.initial_epoch >= epochs:
        raise ValueError(
            f"initial epoch: expected less than the {epochs} epochs to train,"
            f" got {options.initial_epoch}"
        )
    steps = options.steps_per_epoch or -(-len(trained) // options.batch_size)
    weights = _weights(options)
    losses = {o.name: _loss(o, _losses(options)) for o in named.outputs}
    metrics = {o.name: [_metric(o), *_given(options.metrics, o)] for o in named.outputs}
    weighted = {o.name: _given(options.weighted_metrics, o) for o in named.outputs}
    is_one = len(named.outputs) == 1
    only = named.outputs[0].name
    named.model.compile(
        optimizer=make_optimizer(options, epochs * steps),
        loss=losses[only] if is_one else losses,
        loss_weights=None if is_one else {o.name: weights.get(o.name, 1.0) for o in named.outputs},
        metrics=metrics[only] if is_one else metrics,
        weighted_metrics=weighted[only] if is_one else weighted,
        run_eagerly=options.run_eagerly,
        steps_per_execution=options.steps_per_execution,
    )
    validation = None
    if n_aside:
        validation = _batches(named, _rows(dataset.x_train, aside), _rows(dataset.y_train, aside))
    elif options.measures_held_out:
        validation = _batches(named, dataset.x_test, dataset.y_test)
    weights_of_examples = _example_weights(dataset, options)
    batches = _batches(
        named,
        _rows(dataset.x_train, trained),
        _rows(dataset.y_train, trained),
        None if weights_of_examples is None else weights_of_examples[trained],
        shuffled=options.seed if options.shuffle else None,
        batch_size=options.batch_size,
    )
    if options.steps_per_epoch is not None:
        batches = batches.repeat()
    done = 0 if checkpoints is None else checkpoints.restore(named.model)
    history = run_fit(
        named.model,
        batches,
        shuffle=False,  # the batches come shuffled
        epochs=epochs,
        initial_epoch=max(options.initial_epoch, done),
        steps_per_epoch=options.steps_per_epoch,
        validation_data=validation,
        validation_steps=None if validation is None else options.validation_steps,
        callbacks=make_callbacks(
            named.model, options, checkpoints, validated=validation is not None
        ),
        verbose=verbose,
    )
    if checkpoints is not None:
        checkpoints.finish()
    measured = {name: [float(v) for v in values] for name, values in history.history.items()}
    return measured, 1 + min(history.epoch, default=0)


def _example_weights(dataset: MultiDataset, options: TrainingOptions) -> NDArray[np.float32] | None:
    """Return how much each training example counts, by itself and by its class."""
    if options.class_weights is None:
        return dataset.sample_weight
    (output,) = dataset.y_train
    weights = class_weights(options.class_weights, dataset.y_train[output], dataset.labels[output])
    return weights if dataset.sample_weight is None else weights * dataset.sample_weight


def _batches(
    named: NamedModel,
    inputs: Arrays,
    targets: Arrays,
    weights: NDArray[np.float32] | None = None,
    *,
    shuffled: int | None = None,
    batch_size: int = 1024,
) -> Any:
    by_name = {o.name: _target(targets[o.name], o) for o in named.outputs}
    is_one = len(named.outputs) == 1
    wanted: Any = next(iter(by_name.values())) if is_one else by_name
    parts: tuple[Any, ...] = (named.packed(named.fit_inputs(inputs)), wanted)
    if weights is not None:
        parts = (*parts, weights if is_one else dict.fromkeys(by_name, weights))
    batches = tf.data.Dataset.from_tensor_slices(_as_tuples(parts))
    if shuffled is not None:
        n_rows = len(next(iter(inputs.values())))
        batches = batches.shuffle(n_rows, seed=shuffled, reshuffle_each_iteration=True)
    return batches.batch(batch_size).prefetch(1)


def _as_tuples(parts: Any) -> Any:
    """Return the structure without lists, which tf.data takes for one tensor."""
    if isinstance(parts, list | tuple):
        return tuple(map(_as_tuples, parts))
    if isinstance(parts, dict):
        return {name: _as_tuples(part) for name, part in parts.items()}
    return parts


def _target(targets: NDArray[Any], output: Output) -> NDArray[Any]:
    wide = targets.astype(np.float32) if output.gives == "values" or _is_binary(output) else targets
    return wide[:, np.newaxis] if wide.ndim == 1 else wide


def _is_binary(output: Output) -> bool:
    return output.is_multi_label or output.is_second_class


def _rows(arrays: Arrays, chosen: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: array[chosen] for name, array in arrays.items()}


def _loss(output: Output, given: Mapping[str, str]) -> Any:
    usual = "binary_crossentropy" if _is_binary(output) else "sparse_categorical_crossentropy"
    if output.gives == "values":
        usual = "mean_squared_error"
    name = given.get(output.name, usual)
    made = loss_named(name, from_logits=output.gives == "logits")
    kind = type(made).__name__
    fits = {"Binary": _is_binary(output), "Sparse": output.labels and not _is_binary(output)}
    wanted = next((fitting for start, fitting in fits.items() if kind.startswith(start)), None)
    if wanted is None:
        wanted = output.gives == "values" and "Crossentropy" not in kind
    if not wanted:
        raise ValueError(
            f'loss: {name} does not suit output "{output.name}", whose usual loss is {usual}'
        )
    return made


def _metric(output: Output) -> Any:
    if output.gives == "values":
        return "mae"
    if not _is_binary(output):
        return "accuracy"
    return keras.metrics.BinaryAccuracy(
        "accuracy", threshold=0.0 if output.gives == "logits" else 0.5
    )


def _losses(options: TrainingOptions) -> dict[str, str]:
    """Return what `NAME=LOSS,...` says, or `LOSS` for the only output."""
    if options.loss is None:
        return {}
    if "=" not in options.loss:
        return {ONLY: options.loss}
    pairs = [part.partition("=") for part in options.loss.split(",")]
    return {name.strip(): loss.strip() for name, _, loss in pairs}


def _given(metrics: Sequence[str], output: Output) -> list[Any]:
    """Return the metrics that `NAME=METRIC`, or `METRIC` for the only output, give an output."""
    return make_metrics(
        _metrics(metrics).get(output.name, ()),
        gives=output.gives,
        n_classes=len(output.labels),
        is_multi_label=output.is_multi_label,
    )


def _metrics(given: Sequence[str]) -> dict[str, list[str]]:
    """Return the names that `NAME=METRIC`, or `METRIC` for the only output, give each output."""
    by_output: dict[str, list[str]] = {}
    for text in given:
        output, _, metric = text.rpartition("=")
        by_output.setdefault(output.strip() or ONLY, []).append(metric.strip())
    return by_output


def _weights(options: TrainingOptions) -> dict[str, float]:
    weight = options.loss_weight
    if weight is None:
        return {}
    return dict(weight) if isinstance(weight, Mapping) else {ONLY: weight}


def _by_output(what: str, given: Mapping[str, Any], dataset: MultiDataset) -> None:
    unknown = [name for name in given if name not in dataset.y_train]
    if unknown:
        names = ", ".join(f"{name}=..." for name in dataset.y_train)
        raise ValueError(
            f"{what}: expected one for an output, {names}, got {unknown[0] or given[ONLY]!r}"
        )
