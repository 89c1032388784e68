from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import CheckError, Requirements
from ladle.export.publishing.checks import check_accuracy, check_answers, check_regression

PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0], [0.125, 0.875]], np.float32)
EXPECTED: dict[str, NDArray[Any]] = {
    "probabilities": PROBABILITIES,
    "class_id": np.array([1, 0, 0, 1]),
}


def check(**answers: NDArray[Any]) -> None:
    check_answers("serving_default", EXPECTED | answers, EXPECTED)


def test_a_signature_that_answers_as_the_trained_model_passes() -> None:
    check()
    check(probabilities=PROBABILITIES + np.float32(9e-6) * np.array([1, -1], np.float32))


def test_either_of_two_classes_that_are_as_likely_is_the_best() -> None:
    check(class_id=np.array([1, 1, 0, 1]))


@pytest.mark.parametrize("wrong", [[0, 0, 0, 1], [1, 0, 0, 2], [1, 0, 0, -1]])
def test_a_class_that_is_not_the_best_is_refused(wrong: list[int]) -> None:
    with pytest.raises(CheckError, match='signature "serving_default": output "class_id"'):
        check(class_id=np.array(wrong))


def test_an_output_that_is_missing_is_named_beside_those_there() -> None:
    with pytest.raises(CheckError, match='"class_id": missing, it has probabilities'):
        check_answers("serving_default", {"probabilities": PROBABILITIES}, EXPECTED)


def test_other_probabilities_are_refused() -> None:
    with pytest.raises(CheckError, match="within 1e-05, got a difference of 1"):
        check(probabilities=PROBABILITIES[:, ::-1])


def test_a_single_wrong_row_is_refused() -> None:
    wrong = PROBABILITIES.copy()
    wrong[-1] += np.float32(2e-5) * np.array([1, -1], np.float32)
    with pytest.raises(CheckError, match="got a difference of 2"):
        check(probabilities=wrong)


def test_rows_that_do_not_sum_to_1_are_refused() -> None:
    """Even where the trained model is as wrong, as when softmax is applied to neither."""
    doubled = {"scores": PROBABILITIES * 2}
    with pytest.raises(CheckError, match="sum to 1 within 1e-05, got one that is off by 1"):
        check_answers("classify", doubled, doubled)


def test_nan_is_refused() -> None:
    nan = {"probabilities": np.full_like(PROBABILITIES, np.nan)}
    with pytest.raises(CheckError, match="got a difference of nan"):
        check_answers("serving_default", nan, nan)


def test_a_signature_with_a_fixed_batch_is_refused() -> None:
    with pytest.raises(CheckError, match=r"expected shape \[4, 2\], got \[1, 2\]"):
        check(probabilities=PROBABILITIES[:1])


def test_large_numbers_are_compared_relatively() -> None:
    values = {"values": np.array([1e6], np.float32)}
    check_answers("regress", {"values": np.array([1e6 + 1], np.float32)}, values)
    with pytest.raises(CheckError, match=r"got a difference of 0\.0001"):
        check_answers("regress", {"values": np.array([1e6 + 100], np.float32)}, values)


def test_other_labels_are_refused() -> None:
    labels = {"classes": np.array([[b"cat", b"dog"]], object)}
    check_answers("classify", labels, labels)
    with pytest.raises(CheckError, match='"classes": differs'):
        check_answers("classify", {"classes": labels["classes"][:, ::-1]}, labels)


def test_accuracy_below_what_is_required_is_refused() -> None:
    check_accuracy(0.1, Requirements())
    check_accuracy(0.9, Requirements(min_accuracy=0.9))
    with pytest.raises(CheckError, match=r"check accuracy failed: expected at least 0.9, got 0.89"):
        check_accuracy(0.8999, Requirements(min_accuracy=0.9))
    with pytest.raises(CheckError, match="got nan"):
        check_accuracy(float("nan"), Requirements(min_accuracy=0.0))


def test_a_regression_beyond_what_is_allowed_is_refused() -> None:
    most = Requirements(max_regression=0.01)
    check_regression(0.1, (3, 0.9), Requirements())
    check_regression(0.1, None, most)
    check_regression(0.95, (3, 0.9), most)
    check_regression(0.89, (3, 0.9), most)
    message = "at most 0.01 less than version 3's accuracy of 0.9000, got 0.8890"
    with pytest.raises(CheckError, match=f"check regression failed: expected {message}"):
        check_regression(0.889, (3, 0.9), most)
    with pytest.raises(CheckError, match="got nan"):
        check_regression(float("nan"), (3, 0.9), most)
