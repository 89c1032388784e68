"""What has to hold of a written model before it is published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import CheckError
from ladle.export.publishing.destination import Destination
from ladle.export.publishing.requirements import Requirements
from ladle.export.saved_model.row_independence import decided_by
from ladle.export.saved_model.subprocess_check import Arrays

TOLERANCE = 1e-5
HALF_TOLERANCE = 0.02
"""Where a model computes in half precision: another batch size rounds otherwise."""
_SUMS_TO_1 = ("probabilities", "scores")


def check_answers(
    name: str,
    answers: Arrays,
    expected: Arrays,
    *,
    custom: bool = False,
    sums_to_1: bool = True,
    tolerance: float = TOLERANCE,
) -> None:
    """See that the signature `name` answers as the trained model does.

    Args:
        name: For the message.
        answers: What the written model's signature gave.
        expected: What it has to give; a larger batch is cut to the number of answers' rows by the
            caller.
        custom: Whether the signature is the user's: what its outputs mean is not known, so numbers
            that are not floats have to be the same, and none have to sum to 1.
        sums_to_1: Whether probabilities have to sum to 1, as those of classes do and those of
            labels do not.
        tolerance: How far a number may be off, relative to those beyond 1.

    Raises:
        CheckError: An output is missing, is of another shape, differs (numbers by more than
            the tolerance), or gives rows of probabilities that do not sum to 1 within 1e-5.
    """
    for output, values in expected.items():
        where = f'signature "{name}": output "{output}"'
        if output not in answers:
            raise CheckError("signatures", f"{where}: missing, it has {', '.join(answers)}")
        answer = answers[output]
        if answer.shape != values.shape:
            raise CheckError(
                "signatures",
                f"{where}: expected shape {list(values.shape)}, got {list(answer.shape)}",
            )
        if values.dtype.kind == "f":
            _check_close(where, answer, values, tolerance)
        elif not custom and (scores := decided_by(output, "class_id", expected)) is not None:
            _check_best(where, answer, scores, tolerance)
        elif not custom and (scores := decided_by(output, "indicators", expected)) is not None:
            _check_indicators(where, answer, scores, tolerance)
        elif not np.array_equal(answer, values):
            raise CheckError("signatures", f"{where}: differs from the trained model's")
        if output in _SUMS_TO_1 and sums_to_1 and not custom:
            _check_sums(where, answer)


def check_accuracy(accuracy: float, requirements: Requirements) -> None:
    """See that `accuracy` is enough.

    Raises:
        CheckError: It is not.
    """
    least = requirements.min_accuracy
    if least is not None and not accuracy >= least:
        raise CheckError("accuracy", f"expected at least {least:g}, got {accuracy:.4f}")


def check_regression(
    accuracy: float, serving: tuple[int, float] | None, requirements: Requirements
) -> None:
    """See that `accuracy` is not too far below that of the version now serving.

    Args:
        accuracy: Of the version to publish.
        serving: Number and accuracy of the version now serving, where there is one.
        requirements: How far below is too far.

    Raises:
        CheckError: It is.
    """
    most = requirements.max_regression
    if most is None or serving is None:
        return
    version, before = serving
    # A float's rounding is no regression.
    if not before - accuracy <= most + 1e-9:
        raise CheckError(
            "regression",
            f"expected at most {most:g} less than version {version}'s accuracy"
            f" of {before:.4f}, got {accuracy:.4f}",
        )


def _check_close(where: str, answer: NDArray[Any], values: NDArray[Any], tolerance: float) -> None:
    # Written so that NaN, which no comparison holds for, fails.
    off = float(np.max(np.abs(answer - values) / np.maximum(1, np.abs(values)), initial=0))
    if not off <= tolerance:
        raise CheckError(
            "signatures",
            f"{where}: expected the trained model's within {tolerance:g},"
            f" got a difference of {off:g}; answers have to be the same again, and whatever other"
            " examples are in a batch",
        )


def _check_best(
    where: str, answer: NDArray[Any], probabilities: NDArray[Any], tolerance: float
) -> None:
    """Where two classes are as likely, either may be the best."""
    rows = np.arange(len(answer))
    if not np.all((answer >= 0) & (answer < probabilities.shape[1])):
        raise CheckError("signatures", f"{where}: expected 0 to {probabilities.shape[1] - 1}")
    off = float(np.max(probabilities.max(axis=1) - probabilities[rows, answer], initial=0))
    if not off <= tolerance:
        raise CheckError("signatures", f"{where}: expected the class of highest probability")


def _check_indicators(
    where: str, answer: NDArray[Any], probabilities: NDArray[Any], tolerance: float
) -> None:
    """See that each label with a probability above 1/2 is 1; one of about that may be either."""
    decided = np.abs(probabilities - 0.5) > tolerance
    if not np.all(np.isin(answer, (0, 1))) or np.any((answer != (probabilities > 0.5)) & decided):
        raise CheckError("signatures", f"{where}: expected 1 for probabilities above 0.5, else 0")


def _check_sums(where: str, answer: NDArray[Any]) -> None:
    off = float(np.max(np.abs(answer.sum(axis=1, dtype=np.float64) - 1), initial=0))
    if not off <= TOLERANCE:
        raise CheckError(
            "signatures",
            f"{where}: expected rows that sum to 1 within {TOLERANCE:g},"
            f" got one that is off by {off:g}",
        )


def check_metrics(
    metrics: Mapping[str, float], destination: Destination, requirements: Requirements
) -> None:
    """Hold what was measured to the requirements and to the version that serves now; may block.

    Raises:
        CheckError: The accuracy is too low.
        ValueError: An accuracy is required, and the model has no single one.
    """
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
