"""The whole export: train, sign, check and publish."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ladle.export.data.dataset import Dataset
from ladle.export.data.duplicates import duplicates_note
from ladle.export.data.made_up import made_up_data
from ladle.export.multi_io.data import MultiDataset
from ladle.export.multi_io.export import export_multi_io
from ladle.export.publishing.card import provenance, write_card
from ladle.export.publishing.checks import (
    check_accuracy,
    check_regression,
)
from ladle.export.publishing.destination import Destination, destination_of
from ladle.export.publishing.requirements import Requirements
from ladle.export.publishing.versions import size_bytes
from ladle.export.report.evaluation import write_evaluation
from ladle.export.report.measuring import measure, task_of
from ladle.export.report.plots import prepare_plots, write_plots
from ladle.export.saved_model.checked import Checked, check_signatures
from ladle.export.saved_model.custom_signatures import (
    CustomSignature,
    as_endpoint,
    custom_endpoints,
    custom_sample,
)
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.samples import make_samples
from ladle.export.saved_model.signatures import (
    declared_signatures,
    make_endpoints,
    write_saved_model,
)
from ladle.export.saved_model.subprocess_check import Loading
from ladle.export.saved_model.warmup import write_warmup
from ladle.export.training.custom_model import load_model, name_of, read_model
from ladle.export.training.fitting import Trained, Verbosity, check_backend, train
from ladle.export.training.options import TrainingOptions
from ladle.export.training.outputs import as_served, computes_in_half, output_kind
from ladle.export.training.own_preparation import (
    losses_by_normalization,
    normalization_note,
    normalized_for,
)
from ladle.export.training.recipes import RECIPES
from ladle.export.training.vocabularies import check_vocabularies
from ladle.protos.files.versions import MAX_VERSION
from ladle.protos.model_card import Column, ModelCard
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

_CHECKED_EXAMPLES = 64

VersionChoice = int | Literal["next", "timestamp"]
"""A number, the highest there is plus one, or the seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A published version, and what its model card says."""

    version: int
    place: Path | StoreUrl
    """The version's folder, absolute; or its URL in a store."""
    card: ModelCard

    @property
    def path(self) -> Path:
        """The version's folder, absolute.

        Raises:
            ValueError: It was published in a store.
        """
        if isinstance(self.place, StoreUrl):
            raise ValueError(f"path: expected a version in a folder, got one at {self.place}")
        return self.place

    @property
    def accuracy(self) -> float:
        """Share of the held-out examples that a classifier classifies rightly, 0 to 1.

        Where an example may have several labels, the share of all labels of all held-out examples
        that are rightly given or left out; `card.metrics["exact_match"]` is the share of examples
        with all labels right.

        Raises:
            KeyError: It is a regression.
        """
        return self.card.metrics["accuracy"]


def export_model(
    base_path: str | os.PathLike[str],
    dataset: Dataset | MultiDataset | None,
    *,
    recipe: str | None = None,
    model: Any = None,
    fit: bool = True,
    allow_unsafe_model: bool = False,
    signatures: Any = None,
    labels: Sequence[str] | None = None,
    normalization: str | None = None,
    options: TrainingOptions | None = None,
    requirements: Requirements | None = None,
    version: VersionChoice = "next",
    plots: str | os.PathLike[str] | None = None,
    verbose: Verbosity = 0,
) -> Exported:
    """Train a model and publish it as a version under `base_path`, once every check holds.

    The version is a SavedModel with the signatures of `make_endpoints`, its model card and a
    warm-up file. Blocks until training is over, the checks have run and the version is on
    disk. See `train` for what it does to the process's random numbers.

    Args:
        base_path: The model's folder, made where it is missing; versions are its subfolders. Or
            its URL in a store, s3://, gs:// or az://.
        dataset: What to train on, and what to measure with. None exports a model of one's own as
            it is, with nothing measured: it runs on made-up examples, alone and in batches.
        recipe: A name in `ladle.export.training.recipes.RECIPES`; None for the one that suits the
            data.
        model: In a recipe's place a model of one's own: a keras.Model, or where one comes from,
            see `read_model`. Data with several inputs or outputs need one.
        fit: Whether that is trained on the data, or exported as it is.
        allow_unsafe_model: Load a model's file although it may run code.
        signatures: Signatures of one's own beside these: a mapping from names, or a function of the
            trained model that returns one; see `custom_endpoints`. None for the
            model's attribute `ladle_signatures`, if it has one.
        labels: Names for the classes, where the data have none but numbers, or where there are no
            data.
        normalization: How raw data are normalised, see `normalized_as`. None for the usual way of
            the data; or for none, where the model begins with a layer that does it.
        options: How to train; None for the defaults.
        requirements: What has to hold beside the signatures' answers; None for nothing.
        version: The number to publish; one that is taken is refused, before training too.
        plots: A folder, made where it is missing, for charts of the training and its result; see
            `write_plots`. They are written before the checks, and so of a model that fails, too.
        verbose: What Keras prints to stdout: 0 nothing, 1 a progress bar, 2 a line an epoch.

    Raises:
        PublishError: The version or a plot cannot be written; asked about before training too.
        CheckError: A check failed; it says which.
        ExportError: The model cannot be had, or does not fit the data.
        ValueError: There is no such recipe or version number, or a regression has to reach an
            accuracy.
    """
    destination = destination_of(base_path)
    options = options or TrainingOptions()
    requirements = requirements or Requirements()
    number = _number(version)
    model_name = recipe if model is None else name_of(model)
    if dataset is None:
        if model is None or fit:
            raise ValueError("data: expected some, to train on")
        _check_unmeasured(labels, plots, options, requirements)
        check_backend()
        model = read_model(model, ((), len(labels or ())), allow_unsafe=allow_unsafe_model)
        are_images = normalization in ("unit", "symmetric", "imagenet")
        dataset = made_up_data(model, tuple(labels or ()), are_images=are_images)
    elif labels is not None:
        if isinstance(dataset, MultiDataset):
            raise ValueError("labels: not taken for a model with several inputs or outputs")
        dataset = dataset.named(tuple(labels))
    if isinstance(dataset, MultiDataset):
        if model is None or recipe is not None or normalization is not None:
            raise ValueError(
                f"{dataset.name}: {dataset.what_it_is}: these need a model of your own that takes"
                " them as they are, --model, and no recipe or normalization; or write numbers in"
                " the place of texts"
            )
        _prepare_destinations(destination, number, plots)
        check_backend()
        shapes = {name: array.shape[1:] for name, array in dataset.x_train.items()}
        counts = {name: len(dataset.labels.get(name, ())) or 1 for name in dataset.y_train}
        published, card = export_multi_io(
            destination,
            dataset,
            read_model(model, (shapes, counts), allow_unsafe=allow_unsafe_model),
            str(model_name),
            is_trained=not fit,
            signatures=signatures,
            options=options,
            requirements=requirements,
            number=number,
            plots=plots,
            verbose=verbose,
            check_metrics=lambda metrics: _check_metrics(metrics, destination, requirements),
        )
        return Exported(version=published.version, place=published.place, card=card)
    recipe = recipe or ("bag-of-words" if dataset.preparation.are_texts else "mlp")
    model_name = model_name or recipe
    _check_request(dataset, recipe, model, requirements)
    _prepare_destinations(destination, number, plots)
    custom = None
    if model is not None:
        check_backend()
        custom = load_model(model, dataset, allow_unsafe=allow_unsafe_model)
    dataset = normalized_for(custom, dataset, normalization)
    losses: Mapping[str, float] = {}
    if not (fit or custom is None or dataset.is_made_up):
        losses = losses_by_normalization(_as_it_is(custom, dataset), dataset)
    dataset = _with_notes(dataset, losses)
    trained, epochs = _trained_model(dataset, recipe, custom, options, fit=fit, verbose=verbose)
    customs = custom_endpoints(signatures, trained.model if custom is None else custom)
    measured = measure(trained, dataset)
    if plots is not None:
        write_plots(plots, measured.history, measured.evaluation, dataset.labels)
    _check_metrics(measured.metrics, destination, requirements)
    with destination.staging() as folder:
        checked = _write_checked(
            folder, destination.model_name, trained, dataset, customs, requirements
        )
        write_evaluation(measured.evaluation, folder)
        card = ModelCard(
            labels=dataset.labels,
            normalization=dataset.normalization if dataset.preparation.are_images else None,
            columns=tuple(
                Column(name=name, dtype=dataset.preparation.raw_dtype) for name in dataset.columns
            ),
            signatures=declared_signatures(folder),
            row_independent_signatures=checked.row_independent,
            import_modules=requirements.modules,
            metrics=measured.metrics,
            provenance={
                **provenance(model_name, options, dataset, epochs=epochs),
                "task": task_of(dataset),
                "by_label": measured.by_label,
                "loss_by_normalization": losses,
                "warnings": measured.suspicions,
                "history": measured.history,
                "parameters": trained.model.count_params(),
                "latency_ms": checked.latency_ms,
                "size_bytes": size_bytes(folder),
            },
        )
        write_card(card, folder)
        published = destination.publish(folder, number)
    return Exported(version=published.version, place=published.place, card=card)


def export_classifier(*args: Any, **kwargs: Any) -> Exported:
    """Call `export_model`, the name since regressions are exported too.

    Deprecated: this name goes with the next minor version.
    """
    warnings.warn(
        "export_classifier is now export_model, with the same arguments",
        DeprecationWarning,
        stacklevel=2,
    )
    return export_model(*args, **kwargs)


def _check_request(dataset: Dataset, recipe: str, model: Any, requirements: Requirements) -> None:
    """Refuse arguments that can't go together.

    Raises:
        ValueError: They can't; the message names the argument.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe: expected {', '.join(RECIPES)}, got {recipe}")
    if model is not None and RECIPES[recipe].CUSTOM_LOOP:
        raise ValueError(f"recipe: {recipe} is for a model of its own, not for {name_of(model)}")
    if dataset.is_regression and requirements.of_accuracy:
        raise ValueError("min accuracy, max regression: a regression has no accuracy")
    given = "texts" if dataset.preparation.are_texts else "numbers"
    if model is None and given != RECIPES[recipe].TAKES:
        fitting = ", ".join(name for name, made in RECIPES.items() if given == made.TAKES)
        raise ValueError(
            f"recipe: {recipe} takes {RECIPES[recipe].TAKES}, and {dataset.name} has {given}:"
            f" {fitting}, or a model of your own"
        )


def _check_unmeasured(
    labels: Sequence[str] | None,
    plots: Any,
    options: TrainingOptions,
    requirements: Requirements,
) -> None:
    """Refuse what needs data, where there are none.

    Raises:
        ValueError: Something does; or a classifier's labels are missing.
    """
    if labels is None and not options.is_regression:
        raise ValueError(
            "labels: without data expected the names of the classes, in the order of the model's"
            " outputs; or loss mse, for a regression"
        )
    if requirements.of_accuracy:
        raise ValueError("min accuracy, max regression: without data there is no accuracy")
    if plots is not None:
        raise ValueError("plots: without data there is nothing to draw")


def _prepare_destinations(
    destination: Destination, number: int | None, plots: str | os.PathLike[str] | None
) -> None:
    """Find out before a long training whether its results can be written."""
    destination.prepare()
    if plots is not None:
        prepare_plots(plots)
    if number is not None:
        destination.check_free(number)


def _with_notes(dataset: Dataset, losses: Mapping[str, float]) -> Dataset:
    """Warn of what is strange about the data and their normalisation, and keep it with them."""
    duplicates = None if dataset.is_made_up else duplicates_note(dataset)
    found = [note for note in (duplicates, normalization_note(losses)) if note is not None]
    dataset = replace(dataset, notes=(*dataset.notes, *found))
    for note in dataset.notes:
        logger.warning("%s: %s", dataset.name, note)
    return dataset


def _trained_model(
    dataset: Dataset,
    recipe: str,
    custom: Any | None,
    options: TrainingOptions,
    *,
    fit: bool,
    verbose: Verbosity,
) -> tuple[Trained, int]:
    """Return the model to publish, and how many epochs it was trained here."""
    if fit or custom is None:
        model = None if custom is None else as_served(custom, dataset)
        trained = train(dataset, RECIPES[recipe], options, model=model, verbose=verbose)
        return trained, options.epochs_for(len(dataset.x_train), RECIPES[recipe].EPOCHS)
    return _as_it_is(custom, dataset), 0


def _as_it_is(custom: Any, dataset: Dataset) -> Trained:
    """Return a model of one's own as it would be served without being trained here."""
    check_vocabularies(custom)
    model = as_served(custom, dataset)
    gives = output_kind(model, dataset)
    return Trained(model, gives=gives, is_multi_label=dataset.is_multi_label)


def _write_checked(
    folder: Path,
    model_name: str,
    trained: Trained,
    dataset: Dataset,
    customs: Mapping[str, CustomSignature],
    requirements: Requirements,
) -> Checked:
    """Write the SavedModel and its warm-up file, and check it in a process of its own.

    Raises:
        CheckError: The written model reaches out of its graph, or answers otherwise than Keras.
    """
    endpoints = make_endpoints(trained, dataset.preparation, dataset.labels)
    raw = dataset.x_test[:_CHECKED_EXAMPLES]
    samples = make_samples(endpoints, raw, trained, dataset.preparation, dataset.labels)
    for name, signature in customs.items():
        samples[name] = custom_sample(name, signature, raw, dataset)
        endpoints[name] = as_endpoint(name, signature)
    write_saved_model(endpoints, folder)
    check_operations(folder, requirements.allow_op)
    checked = check_signatures(
        folder,
        samples,
        customs=customs.keys(),
        sums_to_1=trained.sums_to_1,
        computed_in_half=computes_in_half(trained.model),
        loading=Loading(import_modules=requirements.import_modules),
    )
    write_warmup(samples, model_name, folder)
    return checked


def _number(version: VersionChoice) -> int | None:
    if version == "next":
        return None
    if version == "timestamp":
        return int(time.time())
    if not 0 <= version <= MAX_VERSION:
        raise ValueError(f"version: expected 0 to {MAX_VERSION}, got {version}")
    return version


def _check_metrics(
    metrics: Mapping[str, float], destination: Destination, requirements: Requirements
) -> None:
    if "accuracy" not in metrics:
        if requirements.of_accuracy:
            raise ValueError(
                "min accuracy, max regression: the model has no single accuracy; its metrics are"
                f" {', '.join(metrics)}"
            )
        return
    check_accuracy(metrics["accuracy"], requirements)
    serving = destination.now_serving()
    if serving is not None and "accuracy" in serving[1].metrics:
        before = (serving[0], serving[1].metrics["accuracy"])
        check_regression(metrics["accuracy"], before, requirements)
