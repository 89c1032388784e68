from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import CheckError
from ladle.export.checks import check_signatures

Answer = NDArray[np.float32]

IMAGES = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
EXPECTED = np.array([[0.25, 0.75], [0.5, 0.5], [1, 0], [0.125, 0.875]], np.float32)


def trained(images: NDArray[Any]) -> Answer:
    rows: Answer = EXPECTED[images[:, 0, 0].astype(int)]
    return rows


def check(predict: Callable[[NDArray[Any]], Answer], expected: Answer = EXPECTED) -> None:
    check_signatures({"serving_default": predict}, {"serving_default": IMAGES}, expected)


def test_a_signature_that_answers_as_the_trained_model_passes() -> None:
    check(trained)
    check(lambda images: trained(images) + np.float32(9e-6) * np.array([1, -1], np.float32))


def test_a_signature_that_is_missing_is_named_beside_those_there() -> None:
    with pytest.raises(CheckError, match='"serving_uint8": missing, the model has serving_default'):
        check_signatures({"serving_default": trained}, {"serving_uint8": IMAGES}, EXPECTED)


def test_other_probabilities_are_refused() -> None:
    with pytest.raises(CheckError, match="within 1e-05, got a difference of 1"):
        check(lambda images: trained(images)[:, ::-1])


def test_a_single_wrong_row_is_refused() -> None:
    def last_row_is_wrong(images: NDArray[Any]) -> Answer:
        answer = trained(images).copy()
        answer[-1] += np.float32(2e-5) * np.array([1, -1], np.float32)
        return answer

    with pytest.raises(CheckError, match="got a difference of 2"):
        check(last_row_is_wrong)


def test_rows_that_do_not_sum_to_1_are_refused() -> None:
    """Even where the trained model is as wrong, as when softmax is applied to neither."""
    with pytest.raises(CheckError, match="sum to 1 within 1e-05, got one that is off by 1"):
        check(lambda images: trained(images) * 2, EXPECTED * 2)


def test_nan_is_refused() -> None:
    nan = np.full_like(EXPECTED, np.nan)
    with pytest.raises(CheckError, match="got a difference of nan"):
        check(lambda images: nan[: len(images)], nan)


def test_a_signature_with_a_fixed_batch_is_refused() -> None:
    with pytest.raises(CheckError, match=r"expected shape \[1, 2\], got \[4, 2\]"):
        check(lambda images: EXPECTED)
