"""Examples with several labels, or none: one sigmoid for each, and no softmax on top."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import ONE_EPOCH
from numpy.typing import NDArray

from ladle.export import DataError, Dataset, export_model, load_data

pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # Keras's
LABELS = ("left", "right", "above")


def halves(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Pictures that may be bright on the left, on the right and above, each by itself."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 3))
    images = rng.integers(0, 60, (count, 4, 4))
    images[:, 2:, :2] += 150 * labels[:, :1, None]
    images[:, 2:, 2:] += 150 * labels[:, 1:2, None]
    images[:, :2] += 150 * labels[:, 2:, None]
    return {"x": images.astype(np.uint8), "y": labels}


@pytest.fixture
def several() -> Dataset:
    train, test = halves(60), halves(30, seed=1)
    arrays = {"x_train": train["x"], "y_train": train["y"]}
    arrays |= {"x_test": test["x"], "y_test": test["y"]}
    return replace(Dataset.from_arrays("halves", arrays), labels=LABELS)


def test_rows_of_0_and_1_are_labels_an_example_may_have(several: Dataset, tmp_path: Path) -> None:
    assert several.is_multi_label
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = {name: getattr(several, name) for name in names}
    np.savez(tmp_path / "l.npz", **arrays | {"y_train": several.y_train.astype(bool)})
    assert load_data(tmp_path / "l.npz").labels == ("0", "1", "2")
    assert Dataset.from_arrays("f", arrays | {"y_test": several.y_test * 1.0}).is_multi_label


def test_rows_with_one_1_each_are_classes(several: Dataset) -> None:
    rows = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    arrays = {"x_train": several.x_train, "y_train": rows}
    arrays |= {"x_test": several.x_test, "y_test": rows[:30]}
    dataset = Dataset.from_arrays("one hot", arrays)
    assert not dataset.is_multi_label
    assert dataset.y_train.tolist() == [0, 1, 2] * 20
    assert "one 1" in dataset.notes[0]


def test_the_parts_have_the_same_labels(several: Dataset) -> None:
    with pytest.raises(DataError, match=r"y_test: expected a row of 0s and 1s .*\[30, 3\]"):
        replace(several, y_test=several.y_test[:, :2])
    with pytest.raises(DataError, match=r"y_test: expected 0s and 1s, got 2 at \[0, 1\]"):
        replace(several, y_test=np.array([[0, 2, 1]] * 30))


@pytest.mark.usefixtures("checked_here")
def test_each_label_has_a_probability_by_itself(tmp_path: Path, several: Dataset) -> None:
    import tensorflow as tf

    options = replace(ONE_EPOCH, epochs=6, batch_size=16, learning_rate=0.05)
    exported = export_model(tmp_path / "m", several, options=options)
    assert exported.accuracy > 0.9
    assert 0 < exported.card.metrics["exact_match"] <= exported.accuracy
    assert exported.card.provenance["task"] == "several labels an example"
    assert set(exported.card.provenance["by_label"]) == set(LABELS)
    signatures = tf.saved_model.load(str(exported.path)).signatures
    told = signatures["serving_uint8"](images=tf.constant(several.x_test))
    right = (told["indicators"].numpy() == several.y_test).mean()
    assert right == pytest.approx(exported.accuracy)
    logits = signatures["logits"](images=tf.constant(several.x_test / np.float32(255)))["logits"]
    np.testing.assert_allclose(tf.sigmoid(logits), told["probabilities"], atol=1e-5)
    example = tf.train.Example()
    example.features.feature["images"].int64_list.value.extend(several.x_test[0].ravel().tolist())
    scores = signatures["classify"](inputs=tf.constant([example.SerializeToString()]))
    np.testing.assert_allclose(scores["scores"][0], told["probabilities"][0], atol=1e-5)
    assert [label.decode() for label in scores["classes"].numpy()[0]] == list(LABELS)


@pytest.mark.usefixtures("checked_here")
@pytest.mark.parametrize("for_classes", [False, True])
def test_several_sigmoids_of_a_model_get_no_softmax_on_top(
    tmp_path: Path, several: Dataset, small: Dataset, for_classes: bool
) -> None:
    import keras
    import tensorflow as tf

    dense = keras.layers.Dense(3, activation="sigmoid")
    model = keras.Sequential([keras.Input((4, 4)), keras.layers.Flatten(), dense])
    model.save(tmp_path / "m.keras")
    dataset = small if for_classes else several
    exported = export_model(tmp_path / "m", dataset, model=str(tmp_path / "m.keras"), fit=False)
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_uint8"]
    told = signature(images=tf.constant(dataset.x_test))
    expected = model.predict(dataset.x_test / np.float32(255), verbose=0)
    np.testing.assert_allclose(told["probabilities"], expected, atol=1e-5)
    assert ("class_id" in told) == for_classes
    assert "logits" not in exported.card.signatures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "categorical_crossentropy"}, "loss: categorical_crossentropy is for one class"),
        ({"class_weights": "balanced"}, "class weights: an example may have several labels"),
    ],
)
def test_options_for_one_class_are_refused(
    tmp_path: Path, several: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        export_model(tmp_path, several, options=replace(ONE_EPOCH, **options))
    with pytest.raises(ValueError, match="takes one class an example"):
        export_model(tmp_path, several.resized(12, 12), recipe="lenet", options=ONE_EPOCH)


def test_accuracy_is_of_all_labels_and_suspicions_name_those_never_given(
    several: Dataset,
) -> None:
    from ladle.export.report.multi_label import by_label
    from ladle.export.report.suspicions import suspicions

    truth = several.y_test.astype(np.float32)
    assert suspicions(truth, several) == []
    answers = truth * np.array([1, 1, 0.4], np.float32)
    told = by_label(answers, several)
    assert told["left"] == {"accuracy": 1, "precision": 1, "recall": 1}
    assert told["above"]["recall"] == 0
    assert any("never given" in one and "'above'" in one for one in suspicions(answers, several))
    assert any("no better" in one for one in suspicions(1 - truth, several))
