"""The export of a model with several inputs or outputs: train, sign, check and publish."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ladle.export.data.duplicates import labels_note, missing_labels_note
from ladle.export.multi_io import signatures as signing
from ladle.export.multi_io.data import MultiDataset
from ladle.export.multi_io.measuring import measure
from ladle.export.multi_io.model import NamedModel
from ladle.export.multi_io.training import check_options, fit
from ladle.export.publishing.card import provenance, write_card
from ladle.export.publishing.checks import check_metrics
from ladle.export.publishing.destination import Destination
from ladle.export.publishing.store import Placed
from ladle.export.publishing.versions import size_bytes
from ladle.export.report.evaluation import Evaluation, recorded_history, write_evaluation
from ladle.export.report.plots import write_plots
from ladle.export.saved_model.custom_signatures import (
    as_endpoint,
    custom_endpoints,
    custom_sample,
)
from ladle.export.saved_model.signatures import declared_signatures
from ladle.export.saved_model.written import write_checked
from ladle.export.settings import Settings
from ladle.export.training.custom_model import read_model
from ladle.export.training.fitting import check_backend
from ladle.export.training.outputs import computes_in_half
from ladle.export.training.vocabularies import check_vocabularies
from ladle.protos.model_card import Column, ModelCard

logger = logging.getLogger(__name__)

_CHECKED_EXAMPLES = 64


def export_multi_io(
    destination: Destination,
    dataset: MultiDataset,
    model: Any,
    model_name: str,
    settings: Settings,
) -> tuple[Placed, ModelCard]:
    """Export a model whose inputs and outputs the data name; see `export_model`.

    Args:
        destination: Where versions are published.
        dataset: What to train on, and what to measure with.
        model: The functional keras.Model, or where it is; see `read_model`.
        model_name: What the card says the model came from.
        settings: What does not depend on the kind of data.

    Raises:
        CheckError: A check failed; it says which.
        ExportError: The model cannot be had, or does not fit the data.
        ValueError: An option is not for models with several inputs or outputs.
    """
    settings.prepare(destination)
    check_backend()
    model = _model(model, dataset, settings)
    options, requirements = settings.options, settings.requirements
    check_options(options, dataset)
    check_vocabularies(model)
    named = NamedModel(model, dataset)
    customs = custom_endpoints(settings.signatures, model)
    dataset = _with_notes(dataset)
    for note in dataset.notes:
        logger.warning("%s: %s", dataset.name, note)
    history: Mapping[str, list[float]] = {}
    first_epoch = 1
    if settings.fit:
        history, first_epoch = fit(named, dataset, options, settings.verbose)
    metrics, outputs = measure(named, dataset)
    recorded = recorded_history(history, first_epoch)
    evaluation = Evaluation(n_examples=dataset.n_test)
    if settings.plots is not None:
        write_plots(settings.plots, recorded, evaluation, ())
    check_metrics(metrics, destination, requirements)
    with destination.staging() as folder:
        examples = {name: array[:_CHECKED_EXAMPLES] for name, array in dataset.x_test.items()}
        endpoints = signing.make_endpoints(named, examples)
        samples = signing.make_samples(endpoints, named, examples)
        for name, signature in customs.items():
            samples[name] = custom_sample(name, signature, signing.held_out(named, examples))
            endpoints[name] = as_endpoint(name, signature)
        checked = write_checked(
            folder,
            destination.model_name,
            endpoints,
            samples,
            requirements,
            sums_to_1=all(o.gives != "sigmoid" and not o.is_multi_label for o in named.outputs),
            computed_in_half=computes_in_half(model),
            customs=customs.keys(),
        )
        write_evaluation(evaluation, folder)
        only = named.outputs[0] if len(named.outputs) == 1 else None
        card = ModelCard(
            labels=() if only is None else only.labels,
            columns=_columns(named) if dataset.are_columns else (),
            outputs=outputs,
            import_modules=requirements.modules,
            signatures=declared_signatures(folder),
            row_independent_signatures=checked.row_independent,
            metrics=metrics,
            provenance={
                **provenance(model_name, options, dataset, epochs=_epochs(history)),
                "history": recorded,
                "parameters": model.count_params(),
                "latency_ms": checked.latency_ms,
                "size_bytes": size_bytes(folder),
            },
        )
        write_card(card, folder)
        return destination.publish(folder, settings.number), card


def _model(spec: Any, dataset: MultiDataset, settings: Settings) -> Any:
    shapes = {name: array.shape[1:] for name, array in dataset.x_train.items()}
    counts = {name: len(dataset.labels.get(name, ())) or 1 for name in dataset.y_train}
    return read_model(spec, (shapes, counts), allow_unsafe=settings.allow_unsafe_model)


def _with_notes(dataset: MultiDataset) -> MultiDataset:
    """Return the data with a note on each output whose labels are strange."""
    found = [
        f"output {name!r}: {note}" if name else note
        for name, labels in dataset.labels.items()
        for note in (labels_note(labels), missing_labels_note(labels))
        if note is not None
    ]
    return replace(dataset, notes=(*dataset.notes, *found))


def _columns(named: NamedModel) -> tuple[Column, ...]:
    return tuple(
        Column(name=name, dtype=str(declared.dtype)) for name, declared in named.takes.items()
    )


def _epochs(history: Any) -> int:
    return max(map(len, history.values()), default=0)
