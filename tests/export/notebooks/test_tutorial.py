"""TensorFlow's quickstart for beginners, cell by cell, as docs/export.md has it."""

from __future__ import annotations

import inspect
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from checking import run_in_this_process

from ladle.export import Dataset
from ladle.export.cli import main

PAGE = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
COMMAND = next(line for line in PAGE.splitlines() if "--data mnist --recipe mlp" in line)


@pytest.fixture
def mnist(tmp_path: Path, digits: Dataset) -> Path:
    """Handwritten digits in the layout of MNIST's file, to 255."""
    path = tmp_path / "mnist.npz"
    images = {part: getattr(digits, f"x_{part}") * 15 for part in ("train", "test")}
    np.savez(
        path,
        x_train=images["train"],
        y_train=digits.y_train,
        x_test=images["test"],
        y_test=digits.y_test,
    )
    return path


def test_each_cell_has_its_effect_here(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    arguments = COMMAND.replace("models/mnist", str(tmp_path / "m")).split()[2:]
    arguments[arguments.index("mnist")] = str(mnist)  # nothing is downloaded
    assert main(arguments) == 0
    printed = capsys.readouterr()
    # the untrained model's predictions, and its loss
    before = re.search(r"Before training: loss ([\d.]+), .* -ln\(1/10\) = ([\d.]+)", printed.err)
    assert before is not None
    assert float(before[2]) == pytest.approx(math.log(10), abs=1e-4)
    assert float(before[1]) == pytest.approx(math.log(10), abs=1.5)
    first = [float(p) for p in printed.err.split("first example: ")[1].split("\n")[0].split(", ")]
    assert len(first) == 10
    assert sum(first) == pytest.approx(1, abs=0.01)
    # fit(epochs=5), evaluate(verbose=2)
    assert len(re.findall(r"Epoch \d/5", printed.err)) == 5
    assert re.search(r"val_accuracy: [\d.]+ - val_loss: [\d.]+", printed.err)
    card = json.loads((tmp_path / "m" / "1" / "assets.extra" / "ladle.json").read_text())
    accuracy = float(re.search(r"Accuracy: ([\d.]+) on 355", printed.out)[1])  # type: ignore[index]
    assert accuracy == pytest.approx(card["provenance"]["history"]["val_accuracy"][-1], abs=1e-4)
    # probability_model(x_test[:5])
    with np.load(mnist) as arrays:
        some = tf.constant(arrays["x_test"][:5])
    signatures = tf.saved_model.load(str(tmp_path / "m" / "1")).signatures
    probabilities = signatures["serving_uint8"](images=some)["probabilities"]
    np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-5)
    logits = signatures["logits"](images=tf.cast(some, tf.float32) / 255)["logits"]
    np.testing.assert_allclose(tf.nn.softmax(logits), probabilities, atol=1e-5)


def test_the_page_names_every_parameter_of_compile_fit_and_the_loss() -> None:
    import keras

    start = PAGE.index("### What of Keras's `compile` and `fit` there is")
    table = PAGE[start : PAGE.index("###", start + 3)]
    loss = keras.losses.SparseCategoricalCrossentropy
    for function in (keras.Model.compile, keras.Model.fit, loss.__init__):
        for name in inspect.signature(function).parameters:
            assert name == "self" or f"`{name}`" in table, name


def test_the_pages_cells_are_those_of_the_notebook() -> None:
    start = PAGE.index("### TensorFlow's quickstart for beginners, cell by cell")
    table = PAGE[start : PAGE.index("\n## ", start)]
    for cell in ("load_data", "255", "Dropout", "softmax", "loss_fn", "compile", "fit", "evaluate"):
        assert cell in table
