"""Models that are exported as they are, without data: with names for their classes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.export import (
    DataError,
    Dataset,
    ExportError,
    Requirements,
    TrainingOptions,
    export_model,
)
from ladle.export.cli import main
from ladle.export.data.made_up import made_up_data

pytestmark = [
    pytest.mark.usefixtures("checked_here"),
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),  # Keras's
]
LABELS = ("cat", "dog", "owl")


def model(shape: tuple[int | None, ...], *layers: Any, outputs: int = 3, **dense: Any) -> Any:
    import keras

    inside = [*layers, keras.layers.Flatten()]
    return keras.Sequential([keras.Input(shape), *inside, keras.layers.Dense(outputs, **dense)])


def test_the_command_needs_a_model_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    model((8, 8, 3)).save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("cat\n\n dog\nowl\n")
    arguments = [str(tmp_path / "pets"), "--model", str(tmp_path / "m.keras"), "--export-only"]
    assert main([*arguments, "--labels", str(tmp_path / "labels.txt")]) == 0
    printed = capsys.readouterr()
    assert "Nothing was measured" in printed.out
    assert "pixels are divided by 255" in printed.err
    assert main(arguments) == 1
    assert "labels: without data expected the names of the classes" in capsys.readouterr().err
    assert main([*arguments, "--labels", "cat,dog"]) == 1
    assert "gives [-1, 3], expected [-1, 2]" in capsys.readouterr().err


def test_the_version_has_all_signatures_and_no_accuracy(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    made = model((8, 8, 3), keras.layers.Rescaling(1 / 127.5, offset=-1), activation="softmax")
    exported = export_model(tmp_path / "m", None, model=made, fit=False, labels=LABELS)
    card = exported.card
    assert set(card.signatures) == {"serving_default", "serving_uint8", "serving_bytes", "classify"}
    assert card.labels == LABELS
    assert card.metrics == {}
    assert card.normalization is not None
    assert card.normalization.divisor == 1
    assert card.provenance["data"]["held_out_examples"] == 0
    assert "serving_uint8" in card.row_independent_signatures
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_uint8"]
    expected = made.predict(images.astype(np.float32), verbose=0)
    told = signature(images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(told, expected, atol=1e-5)
    with pytest.raises(KeyError):
        _ = exported.accuracy


def test_what_the_input_says_is_what_it_takes() -> None:
    import keras

    def of(made: Any, labels: tuple[str, ...] = LABELS, are_images: bool = False) -> Dataset:
        return made_up_data(made, labels, are_images=are_images)

    assert of(model((8, 8, 1))).preparation.are_images
    assert not of(model((8, 8))).preparation.are_images
    assert of(model((8, 8)), are_images=True).preparation.are_images
    assert of(model((20,))).x_test.shape == (16, 20)
    texts = keras.layers.TextVectorization(vocabulary=["a"], output_mode="multi_hot")
    made = keras.Sequential([keras.Input((), dtype="string"), texts, keras.layers.Dense(3)])
    assert of(made).preparation.are_texts
    assert of(model((4,), activation="sigmoid")).is_multi_label
    assert of(model((4,), outputs=1), ()).is_regression


def test_a_regression_needs_its_loss_and_no_names(tmp_path: Path) -> None:
    options = TrainingOptions(loss="mse")
    made = model((4,), outputs=1)
    exported = export_model(tmp_path / "m", None, model=made, fit=False, options=options)
    assert {"serving_default", "regress"} <= set(exported.card.signatures)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": True}, "data: expected some, to train on"),
        ({"requirements": Requirements(min_accuracy=0.5)}, "without data there is no accuracy"),
        ({"plots": "plots"}, "plots: without data"),
        ({"labels": None}, "labels: without data expected"),
    ],
)
def test_what_needs_data_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given = {"model": model((4,)), "fit": False, "labels": LABELS} | options
    with pytest.raises(ValueError, match=message):
        export_model(tmp_path, None, **given)


def test_a_model_that_takes_any_size_needs_data() -> None:
    import keras

    pooled = keras.layers.GlobalAveragePooling2D()
    with pytest.raises(ExportError, match=r"takes \[-1, -1, -1, 3\]: give --data"):
        made_up_data(model((None, None, 3), pooled), LABELS, are_images=False)
    several = [keras.Input((2,)), keras.Input((2,))]
    made = keras.Model(several, keras.layers.Dense(3)(keras.layers.Concatenate()(several)))
    with pytest.raises(ExportError, match="several inputs: give --data"):
        made_up_data(made, LABELS, are_images=False)


def test_names_may_be_given_to_numbered_classes(small: Dataset) -> None:
    assert small.named(LABELS).labels == LABELS
    with pytest.raises(DataError, match="labels: expected 3 names, got 2"):
        small.named(LABELS[:2])
    with pytest.raises(DataError, match="the data name their classes, such as 'cat'"):
        small.named(LABELS).named(("a", "b", "c"))


@pytest.mark.parametrize("text", ["cat", "cat,,dog", "cat,cat", ""])
def test_labels_that_are_no_names_are_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["m", "--model", "m.keras", "--export-only", "--labels", text])
    assert "expected two different names or more" in capsys.readouterr().err
