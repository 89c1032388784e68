"""Measure a model with several inputs or outputs on the held-out examples, output by output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import CheckError
from ladle.export.multi_io.data import MultiDataset
from ladle.export.multi_io.model import NamedModel


def measure(
    named: NamedModel, dataset: MultiDataset
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Return the metrics of the model, and what its card says of each output.

    Of the only output the metrics are called `accuracy`, `exact_match`, `mae` and `mse`; of
    several, the output's name and an underscore come before that.

    Raises:
        CheckError: An answer is no finite number.
    """
    answers = named.answers(dataset.x_test)
    metrics: dict[str, float] = {}
    told: dict[str, dict[str, Any]] = {}
    for output in named.outputs:
        found = answers[output.answer]
        if not np.isfinite(found).all():
            raise CheckError(
                "answers",
                f'output "{output.answer}": the trained model gives numbers that are not finite;'
                " a smaller learning rate may help",
            )
        measured = _metrics(found, answers.get(output.decision or ""), dataset.y_test[output.name])
        prefix = f"{output.name}_" if output.name else ""
        metrics |= {f"{prefix}{name}": value for name, value in measured.items()}
        told[output.answer] = {
            "task": dataset.task(output.name),
            "labels": list(output.labels),
            "metrics": measured,
        }
    return metrics, told


def _metrics(
    answers: NDArray[Any], decided: NDArray[Any] | None, truth: NDArray[Any]
) -> Mapping[str, float]:
    if decided is None:
        off = answers - truth
        return {"mae": float(np.abs(off).mean()), "mse": float((off**2).mean())}
    right = decided == truth
    measured = {"accuracy": float(right.mean())}
    if truth.ndim == 2:
        measured["exact_match"] = float(right.all(axis=1).mean())
    return measured
