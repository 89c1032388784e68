"""The export of a model with one input and one output: train, sign, check and publish."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ladle.export.data.dataset import Dataset
from ladle.export.data.duplicates import duplicates_note, labels_note, missing_labels_note
from ladle.export.publishing.card import provenance, write_card
from ladle.export.publishing.checks import check_metrics
from ladle.export.publishing.destination import Destination
from ladle.export.publishing.requirements import Requirements
from ladle.export.publishing.store import Placed
from ladle.export.publishing.versions import size_bytes
from ladle.export.report.evaluation import write_evaluation
from ladle.export.report.measuring import Measured, measure, task_of
from ladle.export.report.plots import write_plots
from ladle.export.saved_model.checked import Checked
from ladle.export.saved_model.custom_signatures import (
    CustomSignature,
    as_endpoint,
    custom_endpoints,
    custom_sample,
    held_out,
)
from ladle.export.saved_model.samples import make_samples
from ladle.export.saved_model.signatures import declared_signatures, make_endpoints
from ladle.export.saved_model.written import write_checked
from ladle.export.settings import Settings
from ladle.export.training.custom_model import load_model, name_of
from ladle.export.training.fitting import Trained, check_backend, train
from ladle.export.training.outputs import as_served, computes_in_half, output_kind
from ladle.export.training.own_preparation import (
    losses_by_normalization,
    normalization_note,
    normalized_for,
)
from ladle.export.training.recipes import RECIPES
from ladle.export.training.vocabularies import check_vocabularies
from ladle.protos.model_card import Column, ModelCard

logger = logging.getLogger(__name__)

_CHECKED_EXAMPLES = 64


def export_single_io(
    destination: Destination,
    dataset: Dataset,
    model: Any | None,
    model_name: str | None,
    recipe: str | None,
    normalization: str | None,
    settings: Settings,
) -> tuple[Placed, ModelCard]:
    """Export a model whose one input the data's examples are; see `export_model`.

    Args:
        destination: Where versions are published.
        dataset: What to train on, and what to measure with.
        model: A model of one's own, see `read_model`; None for the recipe's.
        model_name: What the card says the model came from; None for the recipe's name.
        recipe: A name in `RECIPES`; None for the one that suits the data.
        normalization: How raw data are normalised; None for the usual way.
        settings: What does not depend on the kind of data.

    Raises:
        CheckError: A check failed; it says which.
        ExportError: The model cannot be had, or does not fit the data.
        ValueError: Arguments can't go together; the message names one.
    """
    recipe = recipe or ("bag-of-words" if dataset.preparation.are_texts else "mlp")
    _check_recipe(dataset, recipe, model, settings.requirements)
    settings.prepare(destination)
    custom = None
    if model is not None:
        check_backend()
        custom = load_model(model, dataset, allow_unsafe=settings.allow_unsafe_model)
    dataset, losses = _normalized(custom, dataset, normalization, settings)
    trained, epochs = _trained_model(dataset, recipe, custom, settings)
    customs = custom_endpoints(settings.signatures, trained.model if custom is None else custom)
    measured = measure(trained, dataset)
    if settings.plots is not None:
        write_plots(settings.plots, measured.history, measured.evaluation, dataset.labels)
    check_metrics(measured.metrics, destination, settings.requirements)
    came_from = provenance(model_name or recipe, settings.options, dataset, epochs=epochs)
    came_from["loss_by_normalization"] = losses
    with destination.staging() as folder:
        checked = _write_checked(
            folder, destination.model_name, trained, dataset, customs, settings.requirements
        )
        write_evaluation(measured.evaluation, folder)
        card = _card(folder, trained, dataset, measured, checked, came_from, settings)
        write_card(card, folder)
        return destination.publish(folder, settings.number), card


def _check_recipe(dataset: Dataset, recipe: str, model: Any, requirements: Requirements) -> None:
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


def _normalized(
    custom: Any | None, dataset: Dataset, normalization: str | None, settings: Settings
) -> tuple[Dataset, Mapping[str, float]]:
    """Return the data as the model takes them, and a trained model's loss by normalisation.

    Warns of what is strange about the data and their normalisation.
    """
    dataset = normalized_for(custom, dataset, normalization)
    losses: Mapping[str, float] = {}
    if not (settings.fit or custom is None or dataset.is_made_up):
        losses = losses_by_normalization(_as_it_is(custom, dataset), dataset)
    return _with_notes(dataset, losses), losses


def _with_notes(dataset: Dataset, losses: Mapping[str, float]) -> Dataset:
    """Warn of what is strange about the data and their normalisation, and keep it with them."""
    duplicates = None if dataset.is_made_up else duplicates_note(dataset)
    of_labels = (labels_note(dataset.labels), missing_labels_note(dataset.labels))
    notes = (duplicates, *of_labels, normalization_note(losses))
    found = [note for note in notes if note is not None]
    dataset = replace(dataset, notes=(*dataset.notes, *found))
    for note in dataset.notes:
        logger.warning("%s: %s", dataset.name, note)
    return dataset


def _trained_model(
    dataset: Dataset,
    recipe: str,
    custom: Any | None,
    settings: Settings,
) -> tuple[Trained, int]:
    """Return the model to publish, and how many epochs it was trained here."""
    if settings.fit or custom is None:
        made, options = RECIPES[recipe], settings.options
        model = None if custom is None else as_served(custom, dataset)
        trained = train(dataset, made, options, model=model, verbose=settings.verbose)
        return trained, options.epochs_for(len(dataset.x_train), made.EPOCHS)
    return _as_it_is(custom, dataset), 0


def _as_it_is(custom: Any, dataset: Dataset) -> Trained:
    """Return a model of one's own as it would be served without being trained here."""
    check_vocabularies(custom)
    model = as_served(custom, dataset)
    gives = output_kind(model, dataset)
    return Trained(
        model, gives=gives, is_multi_label=dataset.is_multi_label, n_values=dataset.n_values
    )


def _write_checked(
    folder: Path,
    model_name: str,
    trained: Trained,
    dataset: Dataset,
    customs: Mapping[str, CustomSignature],
    requirements: Requirements,
) -> Checked:
    """Write the SavedModel with all its signatures, and check it; see `write_checked`."""
    endpoints = make_endpoints(trained, dataset.preparation, dataset.labels)
    raw = dataset.x_test[:_CHECKED_EXAMPLES]
    samples = make_samples(endpoints, raw, trained, dataset.preparation, dataset.labels)
    for name, signature in customs.items():
        samples[name] = custom_sample(name, signature, held_out(raw, dataset))
        endpoints[name] = as_endpoint(name, signature)
    return write_checked(
        folder,
        model_name,
        endpoints,
        samples,
        requirements,
        sums_to_1=trained.sums_to_1,
        computed_in_half=computes_in_half(trained.model),
        customs=customs.keys(),
    )


def _card(
    folder: Path,
    trained: Trained,
    dataset: Dataset,
    measured: Measured,
    checked: Checked,
    came_from: Mapping[str, Any],
    settings: Settings,
) -> ModelCard:
    preparation = dataset.preparation
    return ModelCard(
        labels=dataset.labels,
        normalization=dataset.normalization if preparation.are_images else None,
        columns=tuple(Column(name=name, dtype=preparation.raw_dtype) for name in dataset.columns),
        signatures=declared_signatures(folder),
        row_independent_signatures=checked.row_independent,
        import_modules=settings.requirements.modules,
        metrics=measured.metrics,
        provenance={
            **came_from,
            "task": task_of(dataset),
            "by_label": measured.by_label,
            "warnings": measured.suspicions,
            "history": measured.history,
            "parameters": trained.model.count_params(),
            "latency_ms": checked.latency_ms,
            "size_bytes": size_bytes(folder),
        },
    )
