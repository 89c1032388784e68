"""Models that prepare their inputs themselves, and models with one output for two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import ONE_EPOCH
from numpy.typing import NDArray

from ladle.export import Dataset, ExportError, TrainingOptions, export_model, load_data

pytestmark = [
    pytest.mark.usefixtures("checked_here"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras's
]
RNG = np.random.default_rng(3)


def bright_and_dark(n: int = 80) -> Dataset:
    """Dark images, of class 0, and bright ones, in turn."""
    targets = np.arange(n) % 2
    images = (RNG.integers(0, 100, (n, 4, 4)) + 140 * targets[:, None, None]).astype(np.uint8)
    arrays: dict[str, NDArray[Any]] = {
        "x_train": images[: n // 2],
        "y_train": targets[: n // 2],
        "x_test": images[n // 2 :],
        "y_test": targets[n // 2 :],
    }
    return Dataset.from_arrays("light", arrays)


def saved(path: Path, scale: float | None, *, outputs: int = 2, activation: str = "softmax") -> str:
    """A model that knows: whatever its layers, the mean of raw pixels beyond 120 is bright."""
    import keras

    layers = keras.layers
    inside = [] if scale is None else [layers.Rescaling(scale)]
    dense = layers.Dense(outputs, activation=activation)
    model = keras.Sequential([keras.Input((4, 4)), *inside, layers.Flatten(), dense])
    slope = 0.01 / (scale or 1)
    weights = np.full((16, 1), slope, np.float32)
    if outputs == 1:
        dense.set_weights([weights, np.array([-19.2], np.float32)])
    else:
        dense.set_weights([np.hstack([-weights, weights]) / 2, np.array([9.6, -9.6], np.float32)])
    model.save(path)
    return str(path)


def test_a_model_with_a_rescaling_layer_gets_raw_data(tmp_path: Path) -> None:
    model = saved(tmp_path / "m.keras", 1 / 255)
    exported = export_model(tmp_path / "m", bright_and_dark(), model=model, fit=False)
    assert exported.accuracy == 1
    assert exported.card.normalization is not None
    assert exported.card.normalization.divisor == 1
    assert "begins with a layer Rescaling" in exported.card.provenance["data"]["notes"][0]


def test_a_model_of_raw_pixels_without_a_layer_is_found_by_its_loss(tmp_path: Path) -> None:
    model = saved(tmp_path / "m.keras", None)
    exported = export_model(tmp_path / "m", bright_and_dark(), model=model, fit=False)
    notes = exported.card.provenance["data"]["notes"]
    assert any("with --normalization none: it was probably trained" in note for note in notes)
    assert any(
        "same answer" in w or "chance" in w or "no better" in w
        for w in exported.card.provenance["warnings"]
    )
    right = export_model(
        tmp_path / "m", bright_and_dark(), model=model, fit=False, normalization="none"
    )
    assert right.accuracy == 1
    assert "notes" not in right.card.provenance["data"]
    assert right.card.provenance["warnings"] == []


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_one_output_for_two_classes_is_the_second_ones(tmp_path: Path, activation: str) -> None:
    import tensorflow as tf

    model = saved(tmp_path / "m.keras", 1 / 255, outputs=1, activation=activation)
    dataset = bright_and_dark()
    exported = export_model(tmp_path / "m", dataset, model=model, fit=False)
    assert exported.accuracy == 1
    raw = tf.constant(dataset.x_test[:4])
    served = tf.saved_model.load(str(exported.path)).signatures["serving_uint8"](images=raw)
    logits = (dataset.x_test[:4].reshape(4, -1) * 0.01).sum(axis=1) - 19.2
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(served["probabilities"][:, 1], expected, atol=1e-5)
    assert "classify" in exported.card.signatures


@pytest.mark.parametrize("regression", [False, True])
def test_a_model_of_raw_numbers_is_found_by_its_loss_on_a_table(
    tmp_path: Path, regression: bool
) -> None:
    import keras

    ages = RNG.integers(1, 100, 100)
    lines = [f"{age},{age * 2 if regression else int(age > 50)}" for age in ages]
    (tmp_path / "t.csv").write_text("\n".join(["age,label", *lines]))
    dense = keras.layers.Dense(1, activation="linear" if regression else "sigmoid")
    model = keras.Sequential([keras.Input((1,)), dense])
    bias = 0 if regression else -100.5
    dense.set_weights([np.array([[2.0]], np.float32), np.array([bias], np.float32)])
    model.save(tmp_path / "m.keras")
    dataset = load_data(tmp_path / "t.csv", regression=regression)
    exported = export_model(tmp_path / "m", dataset, model=str(tmp_path / "m.keras"), fit=False)
    notes = exported.card.provenance["data"]["notes"]
    assert any("with --normalization none: it was probably trained" in note for note in notes)
    losses = exported.card.provenance["loss_by_normalization"]
    assert losses["none"] < losses["this"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_in_half_precision_are_cast(tmp_path: Path, policy: str) -> None:
    import keras
    import tensorflow as tf

    dtype = keras.DTypePolicy(policy)
    dense = keras.layers.Dense(2, dtype=dtype)
    knows = keras.Sequential([keras.Input((4, 4)), keras.layers.Flatten(), dense])
    slope = np.full((16, 1), 0.01 * 255 / 2, np.float32)
    dense.set_weights([np.hstack([-slope, slope]), np.array([9.6, -9.6], np.float32)])
    knows.save(tmp_path / "m.keras")
    dataset = bright_and_dark()
    model = str(tmp_path / "m.keras")
    options = TrainingOptions(epochs=1, learning_rate=1e-6, run_eagerly=True)
    exported = export_model(tmp_path / "m", dataset, model=model, options=options)
    assert exported.accuracy == 1
    signature = tf.saved_model.load(str(exported.path)).signatures["serving_uint8"]
    told = signature(images=tf.constant(dataset.x_test))["probabilities"]
    assert told.dtype == tf.float32
    np.testing.assert_allclose(told.numpy().sum(axis=1), 1, atol=1e-6)
    assert "serving_uint8" in exported.card.row_independent_signatures


def test_probabilities_in_half_precision_are_refused_with_what_to_do(tmp_path: Path) -> None:
    import keras

    dtype = keras.DTypePolicy("mixed_float16")
    dense = keras.layers.Dense(2, activation="softmax", dtype=dtype)
    layers = [keras.Input((4, 4)), keras.layers.Flatten(), dense]
    keras.Sequential(layers).save(tmp_path / "m.keras")
    with pytest.raises(ExportError, match=r'float16.*make that layer float32.*dtype="float32"'):
        export_model(tmp_path / "m", bright_and_dark(), model=str(tmp_path / "m.keras"))


def test_it_trains_too(tmp_path: Path) -> None:
    model = saved(tmp_path / "m.keras", 1 / 255, outputs=1, activation="sigmoid")
    options = TrainingOptions(epochs=1, run_eagerly=True, loss="binary_crossentropy")
    exported = export_model(tmp_path / "m", bright_and_dark(), model=model, options=options)
    assert exported.accuracy == 1


def test_a_class_of_ones_own_that_is_not_imported_is_named(tmp_path: Path) -> None:
    import keras

    class Doubled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs * 2

    layers = [keras.Input((4, 4)), Doubled(), keras.layers.Flatten(), keras.layers.Dense(2)]
    keras.Sequential(layers).save(tmp_path / "m.keras")
    with pytest.raises(ExportError, match="Doubled is a class of your own: write a function"):
        export_model(
            tmp_path / "m", bright_and_dark(), model=str(tmp_path / "m.keras"), options=ONE_EPOCH
        )
