from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.client.prediction import Prediction, Scored

SCORES = np.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]], np.float32)


def prediction(labels: tuple[str, ...] = (), **outputs: NDArray[Any]) -> Prediction:
    return Prediction(outputs=outputs, model="m", version=3, signature="s", labels=labels)


def test_an_output_is_had_by_its_name() -> None:
    assert prediction(scores=SCORES)["scores"] is SCORES


def test_an_unknown_output_is_told_with_those_that_are_there() -> None:
    with pytest.raises(KeyError, match=r'output "z": expected one of a, b'):
        prediction(b=SCORES, a=SCORES)["z"]


def test_top_gives_the_best_classes_of_each_example_with_their_labels() -> None:
    assert prediction(("cat", "dog", "emu"), scores=SCORES).top(2) == [
        [Scored("dog", 0.5, 1), Scored("cat", 0.25, 0)],
        [Scored("emu", 0.75, 2), Scored("cat", 0.125, 0)],
    ]


def test_top_gives_all_classes_where_there_are_fewer() -> None:
    assert [len(row) for row in prediction(scores=SCORES).top(9)] == [3, 3]


@pytest.mark.parametrize("labels", [(), ("cat", "dog")])
def test_classes_without_a_label_are_told_by_index(labels: tuple[str, ...]) -> None:
    assert prediction(labels, scores=SCORES).top(1)[1] == [Scored("2", 0.75, 2)]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8, ml_dtypes.bfloat16])
def test_scores_may_be_of_any_number_dtype(dtype: type[Any]) -> None:
    scores = np.array([[1, 3, 2]]).astype(dtype)
    assert [best.class_index for best in prediction(scores=scores).top()[0]] == [1, 2, 0]


def test_a_score_that_is_no_number_comes_last() -> None:
    scores = np.array([[np.nan, 0.5, 0.25]])
    assert [best.class_index for best in prediction(scores=scores).top()[0]] == [1, 2, 0]


def test_an_empty_batch_has_no_rows() -> None:
    assert prediction(scores=SCORES[:0]).top() == []


def test_top_finds_the_scores_among_other_outputs() -> None:
    several = prediction(scores=SCORES, names=np.array([["a"]], object), norm=np.ones(2))
    assert several.top(1)[0] == [Scored("1", 0.5, 1)]


def test_top_does_not_guess_between_outputs() -> None:
    two = prediction(a=SCORES, b=SCORES)
    with pytest.raises(ValueError, match=r"top\(output=...\)"):
        two.top()
    assert two.top(1, output="a")[0] == [Scored("1", 0.5, 1)]


def test_top_refuses_what_are_no_scores() -> None:
    with pytest.raises(ValueError, match=r'output "x": expected numbers of shape .* float64 \[2\]'):
        prediction(x=np.ones(2)).top(output="x")
    with pytest.raises(ValueError, match=r"k: expected 1 or more, got 0"):
        prediction(x=SCORES).top(0)
