"""The export of a model with several inputs or outputs: train, sign, check and publish."""

from __future__ import annotations

from typing import Any

from ladle.export.multi_io import signatures as signing
from ladle.export.multi_io.data import MultiDataset
from ladle.export.multi_io.measuring import measure
from ladle.export.multi_io.model import NamedModel
from ladle.export.multi_io.training import check_options, fit
from ladle.export.publishing.card import provenance, write_card
from ladle.export.publishing.destination import Destination
from ladle.export.publishing.requirements import Requirements
from ladle.export.publishing.store import Placed
from ladle.export.publishing.versions import size_bytes
from ladle.export.report.evaluation import Evaluation, recorded_history, write_evaluation
from ladle.export.report.plots import write_plots
from ladle.export.saved_model.checked import check_signatures
from ladle.export.saved_model.custom_signatures import custom_endpoints
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.signatures import declared_signatures, write_saved_model
from ladle.export.saved_model.subprocess_check import Loading
from ladle.export.saved_model.warmup import write_warmup
from ladle.export.training.options import TrainingOptions
from ladle.export.training.outputs import computes_in_half
from ladle.export.training.vocabularies import check_vocabularies
from ladle.protos.model_card import Column, ModelCard

_CHECKED_EXAMPLES = 64


def export_multi_io(
    destination: Destination,
    dataset: MultiDataset,
    model: Any,
    model_name: str,
    *,
    is_trained: bool,
    signatures: Any,
    options: TrainingOptions,
    requirements: Requirements,
    number: int | None,
    plots: Any,
    verbose: int,
    check_metrics: Any,
) -> tuple[Placed, ModelCard]:
    """Export `model`, whose inputs and outputs the data name; see `export_model`.

    Args:
        destination: Where versions are published; it is prepared.
        dataset: What to train on, and what to measure with.
        model: The functional keras.Model.
        model_name: What the card says the model came from.
        is_trained: Whether the model is exported as it is.
        signatures: Signatures of one's own, which these models do not take.
        options: How to train.
        requirements: What has to hold.
        number: The version to publish; None for the next one.
        plots: A folder for charts; None for none.
        verbose: What Keras prints.
        check_metrics: Called with the metrics, to refuse them.

    Raises:
        CheckError: A check failed; it says which.
        ExportError: The model does not fit the data.
        ValueError: An option is not for models with several inputs or outputs.
    """
    if custom_endpoints(signatures, model):
        raise ValueError("signatures: not taken for a model with several inputs or outputs")
    check_options(options, dataset)
    check_vocabularies(model)
    named = NamedModel(model, dataset)
    history = {} if is_trained else fit(named, dataset, options, verbose)
    metrics, outputs = measure(named, dataset)
    recorded = recorded_history(history, options.initial_epoch + 1)
    evaluation = Evaluation(n_examples=dataset.n_test)
    if plots is not None:
        write_plots(plots, recorded, evaluation, ())
    check_metrics(metrics)
    with destination.staging() as folder:
        examples = {name: array[:_CHECKED_EXAMPLES] for name, array in dataset.x_test.items()}
        endpoints = signing.make_endpoints(named, examples)
        samples = signing.make_samples(endpoints, named, examples)
        write_saved_model(endpoints, folder)
        check_operations(folder, requirements.allow_op)
        checked = check_signatures(
            folder,
            samples,
            sums_to_1=all(o.gives != "sigmoid" and not o.is_multi_label for o in named.outputs),
            computed_in_half=computes_in_half(model),
            loading=Loading(import_modules=requirements.import_modules),
        )
        write_warmup(samples, destination.model_name, folder)
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
        return destination.publish(folder, number), card


def _columns(named: NamedModel) -> tuple[Column, ...]:
    return tuple(
        Column(name=name, dtype=str(declared.dtype)) for name, declared in named.takes.items()
    )


def _epochs(history: Any) -> int:
    return max(map(len, history.values()), default=0)
