"""Measure a model on the held-out examples."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.errors import CheckError
from ladle.export.report.evaluation import Evaluation, evaluate, recorded_history
from ladle.export.report.multi_label import by_label
from ladle.export.report.suspicions import suspicions
from ladle.export.saved_model.signatures import LABEL_THRESHOLD
from ladle.export.training.fitting import Trained

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How the model answers the held-out examples."""

    metrics: dict[str, float]
    evaluation: Evaluation
    history: Mapping[str, Any]
    suspicions: list[str]
    by_label: dict[str, dict[str, float]]
    """For each label that an example may have beside others; empty for other tasks."""


def measure(trained: Trained, dataset: Dataset) -> Measured:
    """Run the model on the held-out examples; on made-up ones nothing is measured.

    Raises:
        CheckError: It gives numbers that are not finite.
    """
    if dataset.is_made_up:
        return Measured(
            metrics={}, evaluation=Evaluation(n_examples=0), history={}, suspicions=[], by_label={}
        )
    answers = trained.answers(dataset.x_test, dataset.preparation)
    if not np.isfinite(answers).all():
        raise CheckError(
            "answers",
            "the trained model gives numbers that are not finite; a smaller learning rate may help",
        )
    found = suspicions(answers, dataset)
    for suspicion in found:
        logger.warning("%s: %s", dataset.name, suspicion)
    return Measured(
        suspicions=found,
        metrics=metrics_of(answers, dataset),
        by_label=by_label(answers, dataset) if dataset.is_multi_label else {},
        evaluation=evaluate(dataset, answers),
        history=recorded_history(trained.history, trained.first_epoch),
    )


def metrics_of(answers: NDArray[np.float32], dataset: Dataset) -> dict[str, float]:
    """Return the metrics of answers to the held-out examples, as a model card has them."""
    if dataset.is_regression:
        off = answers - dataset.y_test
        return {"mae": float(np.mean(np.abs(off))), "mse": float(np.mean(off**2))}
    if dataset.is_multi_label:
        right = (answers > LABEL_THRESHOLD) == dataset.y_test.astype(bool)
        return {"accuracy": float(right.mean()), "exact_match": float(right.all(axis=1).mean())}
    return {"accuracy": float(np.mean(answers.argmax(axis=1) == dataset.y_test))}


def task_of(dataset: Dataset) -> str:
    """Return what is learnt, in words for a model card."""
    if dataset.is_regression:
        return "regression"
    return "several labels an example" if dataset.is_multi_label else "one class an example"
