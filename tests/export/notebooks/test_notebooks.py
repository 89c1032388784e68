"""The cells of four of TensorFlow's notebooks, each by the command or call that the docs give."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import run_in_this_process
from export.notebooks.cells import PAGE, Notebook
from fakes import TIMEOUT_S
from numpy.typing import NDArray

from ladle import cli
from ladle.client import Client
from ladle.export import Dataset, load_data
from ladle.export.cli import main
from ladle.server import Config, Server

pytestmark = pytest.mark.e2e
N_TRAIN, N_TEST = 200, 100


@pytest.fixture
def folder(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, NDArray[Any]]]:
    """Digits in the place of what Keras would download, in a folder to work in."""
    import keras

    arrays = {
        "x_train": digits.x_train[:N_TRAIN] * 15,
        "y_train": digits.y_train[:N_TRAIN],
        "x_test": digits.x_test[:N_TEST] * 15,
        "y_test": digits.y_test[:N_TEST],
    }
    large = {name: np.pad(arrays[name], ((0, 0), (2, 2), (2, 2))) for name in ("x_train", "x_test")}
    for name, given in (("fashion_mnist", arrays), ("mnist", arrays | large)):
        parts = (given["x_train"], given["y_train"]), (given["x_test"], given["y_test"])
        monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda parts=parts: parts)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield arrays
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def write_package(more: str) -> None:
    """Write the page's `my_package/models.py`, with functions of the test's own."""
    _, block = PAGE.split('```python title="my_package/models.py"\n')
    Path("my_package").mkdir()
    Path("my_package", "models.py").write_text(block.partition("```")[0] + more)


def run(command: Sequence[str], *more: str) -> None:
    assert command[:2] == ["ladle", "export"]
    assert main([*command[2:], *more]) == 0


def card_of(version: str) -> Any:
    return json.loads(Path(version, "assets.extra", "ladle.json").read_text())


@contextlib.contextmanager
def served(name: str) -> Iterator[Client]:
    base_path = str(Path("models", name).absolute())
    config = Config(port=None, model_name=name, model_base_path=base_path, drain_grace_seconds=0)
    server = Server(config)
    server.open()
    try:
        with Client(server.addresses[0]) as client:
            client.wait_until_ready(name, timeout=TIMEOUT_S * 6)
            yield client
    finally:
        server.stop(lame_duck=False)


def test_classify_images_of_clothing(
    folder: dict[str, NDArray[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook("Classify images of clothing, cell by cell")
    (command,) = notebook.commands
    assert notebook.options("`fashion_mnist.load_data()`", command) == []
    shape, show = notebook.code("`train_images.shape`")
    assert eval(shape, {"load_data": load_data}) == (N_TRAIN, 8, 8)
    for cell in ("`Sequential([Flatten", '`compile(optimizer="adam"', "`fit("):
        assert notebook.options(cell, command) == []
    run(command)
    printed = capsys.readouterr()
    assert len(re.findall(r"Epoch \d+/10", printed.err)) == 10
    card = card_of("models/fashion/1")
    # the names come with the data; `--labels` names those of an .npz
    assert notebook.code("`class_names")[0] == "--labels"
    assert card["labels"][0] == "T-shirt/top"
    assert "done" in notebook.cell("`train_images / 255.0`")
    assert card["normalization"]["divisor"] == 255
    assert '"Accuracy"' in notebook.cell("`evaluate(")
    assert re.search(rf"Accuracy: [\d.]+ on {N_TEST}", printed.out)
    assert cli.main(show.split()[1:]) == 0
    assert f"training_examples {N_TRAIN}" in " ".join(capsys.readouterr().out.split())
    (report,) = notebook.code("the figure of 25 images")
    assert cli.main(report.split()[1:]) == 0
    page = Path("fashion-1.html").read_text()
    assert page.count("data:image/png") >= 10
    assert "held-out" in notebook.cell("`plot_image`")
    assert "Ankle boot" in page
    chart, charts = notebook.code("`plot_image`")
    assert Path(charts, chart).is_file()
    with served("fashion") as client:
        names = {"client": client, "x_test": folder["x_test"]}
        (call,) = notebook.code("`Sequential([model, Softmax()])`")
        probabilities = eval(call, names)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
        call, top = notebook.code("`np.argmax(predictions[0])`")
        classes = eval(call, names)
        assert np.array_equal(classes, probabilities.argmax(axis=1))
        assert eval(top, names)[0][0].label == card["labels"][classes[0]]
        (call,) = notebook.code("`np.expand_dims")
        assert eval(call, names)["probabilities"].shape == (1, 10)
    assert card["metrics"]["accuracy"] == pytest.approx(np.mean(classes == folder["y_test"]))
    assert notebook.left == []


def test_a_training_loop_with_gradient_tape(
    folder: dict[str, NDArray[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook("A training loop with GradientTape, cell by cell")
    (command,) = notebook.commands
    assert notebook.options("`mnist.load_data()`", command) == []
    varied = notebook.options("`Dataset.from_tensor_slices", command)
    varied += notebook.options("`CategoricalCrossentropy", command)
    varied += notebook.options("`@tf.function def train_step`", command)
    assert varied == ["--no-shuffle", "--learning-rate", "0.001", "--run-eagerly"]
    assert notebook.options("`for epoch", command) == []
    run(command, *varied)
    printed = capsys.readouterr().err
    assert len(re.findall(r"Epoch \d/5", printed)) == 5
    for cell in ("`x_train[..., tf.newaxis]", "`tf.one_hot"):
        assert notebook.cell(cell).startswith("done")
    history = card_of("models/lenet/1")["provenance"]["history"]
    measures = notebook.code("`metrics.Mean()`")
    assert set(measures) == history.keys() - {"epochs"}
    assert "held-out" in notebook.cell("`@tf.function def test_step`")
    assert notebook.options("`print(f", command) == []
    line = " - ".join(rf"{name}: ([\d.]+)" for name in measures)
    told = re.findall(line, printed)
    assert len(told) == 5
    for name, value in zip(measures, told[-1], strict=True):
        assert float(value) == pytest.approx(history[name][-1], abs=1e-4)
    # a class of one's own comes from a function, and trains by Keras's loop or by none
    own = notebook.options("`class MyModel", command)
    assert own == ["--model", "my_package.models:make"]
    assert own[1].partition(":")[0].replace(".", "/") in PAGE
    training = card_of("models/lenet/1")["provenance"]["training"]
    assert (training["shuffle"], training["run_eagerly"]) == (False, True)
    assert training["learning_rate"] == 0.001
    assert notebook.left == []


RESTORED = """

def restored(shape, classes):
    model = make(shape, classes)
    model.load_weights("mine.weights.h5")
    return model
"""


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # Keras and h5py
def test_checkpoints_along_the_way(
    folder: dict[str, NDArray[Any]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ladle.export.training.checkpoints import Checkpoints

    notebook = Notebook("Checkpoints along the way, cell by cell")
    (command,) = notebook.commands
    assert notebook.options("`def create_model()`", command) == []
    assert notebook.options("`ModelCheckpoint(", command) == []
    write_package(RESTORED)
    save = Checkpoints.save
    optimizers = []

    def stop_after_seven(checkpoints: Checkpoints, model: Any, epochs_done: int) -> None:
        save(checkpoints, model, epochs_done)
        optimizers.append(model.optimizer)
        if epochs_done == 7:
            model.save_weights("mine.weights.h5")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop_after_seven)
        assert cli.main(command[1:]) == 130
    capsys.readouterr()
    (kept,) = notebook.code("`os.listdir(")
    assert Path(kept.replace("-N.", "-7.")).is_file()
    assert "only the newest" in notebook.cell("`save_freq")
    assert len(list(Path(kept).parent.iterdir())) == 1
    steps = int(optimizers[0].iterations)
    for cell in ("`create_model()` anew", "`tf.train.latest_checkpoint"):
        assert "the same command" in notebook.cell(cell)
    restore = Checkpoints.restore

    def note_steps(checkpoints: Checkpoints, model: Any) -> int:
        done = restore(checkpoints, model)
        assert int(model.optimizer.iterations) == steps  # its state is there again, too
        return done

    monkeypatch.setattr(Checkpoints, "restore", note_steps)
    run(command)
    assert "optimizer's state" in notebook.cell("`tf.train.Checkpoint(")
    assert re.findall(r"Epoch (\d+)/10", capsys.readouterr().err) == ["8", "9", "10"]
    assert card_of("models/kept/1")["provenance"]["history"]["epochs"] == [8, 9, 10]
    by_hand = notebook.options('`save_weights("mine.weights.h5")`', command)
    run([*command[:5], *by_hand])
    accuracy = card_of("models/kept/2")["metrics"]["accuracy"]
    assert accuracy > 0.5
    assert notebook.left == []


OWN_CLASS = """

@keras.saving.register_keras_serializable("mine")
class MyLayer(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.multiply(inputs, 0.5)


def restored():
    return keras.saving.load_model("own.keras", custom_objects={"MyLayer": MyLayer})
"""


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # Keras and h5py
def test_save_and_load_a_model(
    folder: dict[str, NDArray[Any]], digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras
    import tensorflow as tf

    from ladle.export.training.custom_model import read_model

    notebook = Notebook("Save and load a model, cell by cell")
    as_keras, as_h5 = notebook.commands
    write_package(OWN_CLASS)
    layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((8, 8)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    model.fit(digits.x_train / 16, digits.y_train, epochs=3, verbose=0)
    _, accuracy = model.evaluate(digits.x_test / 16, digits.y_test, verbose=0)
    for version, command in enumerate((as_keras, as_h5), start=1):
        path = command[command.index("--model") + 1]
        assert notebook.options(f'`model.save("{path}")`', command) == []
        model.save(path)
        run(command)
        told = re.search(r"Accuracy: ([\d.]+) on 355", capsys.readouterr().out)
        assert told is not None
        assert float(told[1]) == pytest.approx(accuracy, abs=1e-4)
        assert card_of(f"models/saved/{version}")["provenance"]["training"]["epochs"] == 0
    assert '"Accuracy"' in notebook.cell("`new_model.evaluate(")
    (show,) = notebook.code("`summary()`")
    assert cli.main(show.split()[1:]) == 0
    assert "card.provenance.parameters 650" in " ".join(capsys.readouterr().out.split())
    (written,) = notebook.code("`model.export(")
    *parts, check = notebook.code("`ls saved_model")
    assert {path.name for path in Path(written).iterdir()} >= set(parts)
    assert cli.main(check.split()[1:]) == 0
    (call,) = notebook.code("`tf.saved_model.load(")
    serving = eval(call, {"tf": tf})
    raw = digits.x_test[:3]
    answers = serving(images=tf.constant(raw / 16, tf.float32))["probabilities"]
    np.testing.assert_allclose(answers, tf.nn.softmax(model(raw / 16)), atol=1e-5)
    with served("saved") as client:
        (call,) = notebook.code("`new_model.predict(")
        assert eval(call, {"client": client, "x_test": digits.x_test}) == (355, 10)
    module = __import__("my_package.models", fromlist=["MyLayer"])
    keras.Sequential([keras.Input((8, 8)), module.MyLayer(), *layers]).save("own.keras")
    _, spec = notebook.options("`get_config`", as_keras)
    found = read_model(spec, ((8, 8), 10))
    assert isinstance(found.layers[0], module.MyLayer)
    assert notebook.left == []
