"""A regression of several numbers an example, of one input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exporting import ONE_EPOCH

from ladle.export import export_model, load_data
from ladle.export.report.page import make_report

pytestmark = [
    pytest.mark.usefixtures("checked_here"),
    pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning"),  # Keras's
]


def test_several_numbers_an_example_are_learnt_and_served(tmp_path: Path) -> None:
    import tensorflow as tf

    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 3))
    y = np.stack([x[:, 0] + 2, 3 * x[:, 1]], axis=1)
    parts = {"x_train": x[:200], "y_train": y[:200], "x_test": x[200:], "y_test": y[200:]}
    np.savez(tmp_path / "two.npz", **parts)  # type: ignore[arg-type]
    dataset = load_data(tmp_path / "two.npz", regression=True)
    options = replace(ONE_EPOCH, epochs=15, batch_size=16, loss="mse", learning_rate=0.01)
    exported = export_model(
        tmp_path / "m", dataset, recipe="mlp-plain", options=options, plots=tmp_path / "plots"
    )
    assert exported.card.metrics["mae"] < 0.5
    assert "the same answer" not in str(exported.card.provenance["warnings"])
    assert exported.card.signatures.keys() == {"serving_default", "serving_raw"}
    assert exported.card.signatures["serving_default"]["outputs"]["values"]["shape"] == [-1, 2]
    serving = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    values = serving(features=tf.constant(dataset.x_test))["values"].numpy()
    off = np.abs(values - dataset.y_test)
    assert off.mean() == pytest.approx(exported.card.metrics["mae"], abs=1e-5)
    assert (tmp_path / "plots" / "predictions.svg").is_file()
    assert "mae" in make_report("two", 1, exported.card, None)


def test_a_model_of_ones_own_gives_them_without_data_too(tmp_path: Path) -> None:
    import keras

    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    options = replace(ONE_EPOCH, loss="mse")
    exported = export_model(tmp_path, None, model=made, fit=False, options=options)
    assert exported.card.signatures["serving_default"]["outputs"]["values"]["shape"] == [-1, 2]
