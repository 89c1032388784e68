"""What passes as row independent, with functions of NumPy in a signature's place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from exporting import ONE_EPOCH
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.export import Dataset, export_model
from ladle.export.publishing.card import read_card
from ladle.export.saved_model.row_independence import (
    batches_to_compare,
    is_row_independent,
    requests_to_compare,
)

Array = NDArray[Any]
Function = Callable[[Array], Array]
ROWS = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
WEIGHTS = np.random.default_rng(2).normal(size=(3, 4)).astype(np.float32)


def passes(function: Function, rows: Array = ROWS, output: str = "y") -> bool:
    def outputs(x: Array) -> dict[str, Array]:
        try:
            return {output: function(x)}
        except ValueError:
            return {}

    compared = [outputs(request.inputs["x"]) for request in requests_to_compare("s", {"x": rows})]
    return is_row_independent(len(rows), compared)


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ WEIGHTS,
        lambda x: softmax(x, 1),
        lambda x: np.sort(x, axis=1),
        lambda x: (x @ WEIGHTS).argmax(axis=1),
        lambda x: (x @ WEIGHTS).astype(np.float16),
        lambda x: (x @ WEIGHTS).astype(ml_dtypes.bfloat16),
        lambda x: np.array([str(row).encode() for row in x], np.object_),
    ],
)
def test_what_works_row_by_row_passes(function: Function) -> None:
    assert passes(function)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: softmax(x, 0),
        lambda x: x @ x.T,
        lambda x: x - x.mean(axis=0),
        lambda x: np.sort(x, axis=0),
        lambda x: np.cumsum(x, axis=0),
        lambda x: x / np.linalg.norm(x),
        lambda x: np.arange(len(x)),
        lambda x: np.full(len(x), len(x)),
        lambda x: x[::-1],
        lambda x: np.unique(x, axis=0),
        lambda x: np.squeeze(x),
        lambda x: x + (len(x) > 4),
        lambda x: x + (len(x) > 100),
    ],
)
def test_what_mixes_rows_does_not(function: Function) -> None:
    assert not passes(function)


def test_state_and_random_numbers_do_not_pass() -> None:
    rng = np.random.default_rng(0)
    calls = iter(range(1000))
    assert not passes(lambda x: x + rng.normal(size=x.shape))
    assert not passes(lambda x: x + next(calls))


def test_a_batch_that_fails_does_not_pass() -> None:
    def not_alone(x: Array) -> Array:
        if len(x) == 1:
            raise ValueError("expected two rows")
        return x

    assert not passes(not_alone)


def test_text_that_is_padded_to_the_longest_row_does_not_pass() -> None:
    def mean_length(x: Array) -> Array:
        return np.array([len(text) / max(map(len, x)) for text in x])

    assert not passes(mean_length, np.array([b"a", b"bb", b"ccc"], np.object_))


@pytest.mark.parametrize("rows", [ROWS[:1], np.ones((6, 3), np.float32)])
def test_rows_that_are_alike_show_nothing(rows: Array) -> None:
    assert requests_to_compare("s", {"x": rows}) == []
    assert not passes(lambda x: x, rows)


@pytest.mark.parametrize(
    "constant",
    [
        np.zeros(6, np.float32),
        np.full((6, 2), 255, np.uint8),
        np.ones(6, np.bool_),
        np.array([b"a"] * 6, np.object_),
        np.array(["a"] * 6),
        np.ones(6, ml_dtypes.bfloat16),
    ],
)
def test_an_input_that_is_the_same_in_all_rows_hides_nothing(constant: Array) -> None:
    """The first row's value could count for all."""

    def answers(by: Callable[[Array], Array]) -> list[dict[str, Array]]:
        requests = requests_to_compare("s", {"x": ROWS, "k": constant})
        return [{"y": request.inputs["x"], "k": by(request.inputs["k"])} for request in requests]

    assert is_row_independent(len(ROWS), answers(lambda k: k))
    assert not is_row_independent(len(ROWS), answers(lambda k: k[np.zeros(len(k), np.intp)]))


def test_a_sample_in_which_every_input_varies_is_run_as_it_is() -> None:
    for request in requests_to_compare("s", {"x": ROWS, "k": np.arange(6) == 3}):
        rows = [np.flatnonzero((row == ROWS).all(axis=1))[0] for row in request.inputs["x"]]
        np.testing.assert_array_equal(request.inputs["k"], np.array(rows) == 3)


def test_either_of_two_classes_that_are_as_likely_may_be_the_best() -> None:
    probabilities = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)
    compared: list[dict[str, Array]] = [
        {"probabilities": probabilities[rows], "class_id": np.ones(len(rows), np.int64)}
        for rows in batches_to_compare(2)
    ]
    assert is_row_independent(2, compared)
    compared[0]["class_id"] = np.array([2])
    assert not is_row_independent(2, compared)


@given(st.integers(1, 70))
def test_every_batch_holds_rows_of_the_sample_and_some_are_alone(n_rows: int) -> None:
    batches = batches_to_compare(n_rows)
    assert all(len(rows) and rows.min() >= 0 and rows.max() < n_rows for rows in batches)
    assert {len(rows) for rows in batches} >= {1, n_rows}


def test_the_card_of_a_version_names_what_may_be_batched(
    tmp_path: Path, small: Dataset, checked_here: None, caplog: pytest.LogCaptureFixture
) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None, 4, 4], tf.float32, "images")

    def ranks(images: Any) -> dict[str, Any]:
        return {"share": tf.nn.softmax(tf.reduce_sum(images, [1, 2]), axis=0)}

    def brightness(images: Any) -> dict[str, Any]:
        return {"sum": tf.reduce_sum(images, [1, 2])}

    signatures = {"ranks": (ranks, [spec]), "brightness": (brightness, [spec])}
    exported = export_model(tmp_path / "m", small, signatures=signatures, options=ONE_EPOCH)
    card = read_card(exported.path)
    assert card is not None
    assert set(card.row_independent_signatures) == {*card.signatures} - {"ranks"}
    assert 'signature "ranks": rows change each other\'s answers' in caplog.text
