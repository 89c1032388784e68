from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.client import (
    TLS,
    Classification,
    ModelCard,
    ModelMetadata,
    Prediction,
    Regression,
    Scored,
    Signature,
    TensorSpec,
    VersionState,
    VersionStatus,
)

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


def test_a_prediction_is_a_mapping_of_its_outputs() -> None:
    made = prediction(b=SCORES, a=SCORES[0])
    assert list(made) == list(made.keys()) == ["b", "a"]
    assert len(made) == 2
    assert dict(made)["b"] is SCORES
    assert {**made}["b"] is SCORES
    assert "a" in made
    assert "z" not in made
    assert made.get("z") is None
    assert isinstance(made, Mapping)
    complete = getattr(made, "_ipython_key_completions_")  # noqa: B009 - IPython's own protocol
    assert complete() == ["b", "a"]


def test_predictions_compare_by_identity_and_not_by_arrays() -> None:
    one, other = prediction(a=SCORES), prediction(a=SCORES)
    assert one != other
    assert len({one, other, one}) == 2


def test_results_say_in_words_what_they_are() -> None:
    names = np.array([b"x"], object)
    assert repr(prediction(scores=SCORES, name=names)) == (
        'Prediction("m" version 3 "s": name string [1], scores float32 [2, 3])'
    )
    classification = Classification(((Scored("a", 1.0, 0),),), "m", None, "s")
    assert repr(classification) == 'Classification("m" "s": the classes of 1 examples)'
    values = np.zeros(1_000, np.float32)
    assert repr(Regression(values, "m", 1, "s")) == (
        'Regression("m" version 1 "s": values float32 [1000])'
    )


def test_metadata_says_in_words_what_it_is() -> None:
    pixels, scores = TensorSpec(1, (-1, 48, 48, 3)), TensorSpec(1, (-1, 10))
    signature = Signature(
        {"images": pixels, "n": TensorSpec(9, None)}, {"p": scores}, "", frozenset("n")
    )
    assert repr({"images": pixels}) == "{'images': float32 [-1, 48, 48, 3]}"
    assert repr(signature) == (
        "Signature(images: float32 [-1, 48, 48, 3], n: int64 of any shape (optional) "
        "-> p: float32 [-1, 10])"
    )
    metadata = ModelMetadata("m", 3, {"d": signature}, ModelCard(labels=("a", "b")))
    assert repr(metadata) == f'ModelMetadata("m" version 3, d: {signature!r}, 2 labels)'
    status = VersionStatus(2, VersionState.END, 13, "it broke")
    assert repr(status) == "VersionStatus(version 2 END: it broke)"


def test_a_private_key_is_in_no_text() -> None:
    assert "secret" not in repr(TLS(certificate=b"c", key=b"secret"))
