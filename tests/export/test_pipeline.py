"""The whole export, with a real training each; test_cli.py has the command's quick tests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import (
    CheckError,
    Dataset,
    Exported,
    ExportError,
    PublishError,
    TrainingOptions,
    export_classifier,
    load_data,
)
from ladle.protos.model_card import ModelCard, Normalization

pytestmark = pytest.mark.e2e

Command = Callable[..., "subprocess.CompletedProcess[str]"]

MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist.npz"
ONE_EPOCH = TrainingOptions(epochs=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def exported(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export_classifier(tmp_path_factory.mktemp("models") / "digits", digits)


@pytest.fixture
def small(arrays: dict[str, NDArray[Any]]) -> Dataset:
    return Dataset.from_arrays("small", arrays)


class TF1Session:
    """The version in a session, as TensorFlow Serving runs it."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        self.signatures = meta_graph.signature_def

    def run(self, signature: str, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the signature's probabilities for `images`."""
        tensors = self.signatures[signature]
        feeds = {tensors.inputs["images"].name: images}
        answer: NDArray[np.float32] = self._session.run(
            tensors.outputs["probabilities"].name, feeds
        )
        return answer

    def close(self) -> None:
        """Give its memory back."""
        self._session.close()


@pytest.fixture(scope="module")
def session(exported: Exported) -> Iterator[TF1Session]:
    session = TF1Session(exported.path)
    yield session
    session.close()


def test_digits_reach_their_accuracy(exported: Exported) -> None:
    assert exported.version == 1
    assert exported.accuracy >= 0.95


def test_the_accuracy_on_the_card_is_that_of_the_published_model(
    exported: Exported, session: TF1Session, digits: Dataset
) -> None:
    predicted = session.run("serving_uint8", digits.x_test).argmax(axis=1)
    assert np.mean(predicted == digits.y_test) == exported.accuracy


def test_both_signatures_give_the_same_probabilities(session: TF1Session, digits: Dataset) -> None:
    from_raw = session.run("serving_uint8", digits.x_test)
    normalized = digits.normalization.apply(digits.x_test)
    from_normalized = session.run("serving_default", normalized)
    np.testing.assert_allclose(from_raw, from_normalized, rtol=0, atol=1e-6)
    np.testing.assert_allclose(from_raw.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_the_batch_dimension_is_open(session: TF1Session, digits: Dataset) -> None:
    for n_images in (0, 1, 7):
        assert session.run("serving_uint8", digits.x_test[:n_images]).shape == (n_images, 10)


def test_the_version_loads_with_plain_tensorflow(exported: Exported, digits: Dataset) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(exported.path))
    assert set(loaded.signatures) == {"serving_default", "serving_uint8"}
    outputs = loaded.signatures["serving_uint8"](images=tf.constant(digits.x_test))
    assert np.mean(outputs["probabilities"].numpy().argmax(1) == digits.y_test) == exported.accuracy


def test_only_what_serving_needs_is_written(exported: Exported, session: TF1Session) -> None:
    """Two Dense layers' kernels and biases: no optimizer, no dropout, nothing twice."""
    import tensorflow as tf

    variables = tf.train.list_variables(str(exported.path / "variables" / "variables"))
    shapes = sorted(tuple(shape) for name, shape in variables if name.endswith("VARIABLE_VALUE"))
    assert shapes == [(10,), (64, 128), (128,), (128, 10)]
    assert set(session.signatures) == {
        "serving_default",
        "serving_uint8",
        "__saved_model_init_op",
    }


def test_the_card_lies_beside_the_model_and_tells_of_it(
    exported: Exported, digits: Dataset
) -> None:
    card = ModelCard.from_json((exported.path / "assets.extra" / "ladle.json").read_bytes())
    assert card == exported.card
    assert card.labels == tuple("0123456789")
    assert card.normalization == Normalization(divisor=16.0)
    probabilities = {"probabilities": {"dtype": "float32", "shape": [-1, 10]}}
    assert card.signatures == {
        "serving_default": {
            "inputs": {"images": {"dtype": "float32", "shape": [-1, 8, 8]}},
            "outputs": probabilities,
        },
        "serving_uint8": {
            "inputs": {"images": {"dtype": "uint8", "shape": [-1, 8, 8]}},
            "outputs": probabilities,
        },
    }
    assert card.provenance["data"]["fingerprint"] == digits.fingerprint
    assert card.provenance["training"]["epochs"] == 30


def test_normalization_in_the_graph_is_that_on_the_card(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    """With an offset and a divisor for each channel, and images that have channels."""
    for part in ("x_train", "x_test"):
        arrays[part] = np.stack([arrays[part]] * 3, axis=-1)
    normalization = Normalization(offset=(125.0, 123.0, 114.0), divisor=(63.0, 62.0, 67.0))
    dataset = Dataset.from_arrays("channels", arrays, normalization)
    exported = export_classifier(tmp_path, dataset, options=ONE_EPOCH)
    assert exported.card.normalization == normalization
    session = TF1Session(exported.path)
    np.testing.assert_allclose(
        session.run("serving_uint8", dataset.x_test),
        session.run("serving_default", normalization.apply(dataset.x_test)),
        rtol=0,
        atol=1e-6,
    )
    session.close()


def test_one_seed_gives_one_model_and_another_seed_another(tmp_path: Path, small: Dataset) -> None:
    def probabilities(seed: int) -> NDArray[np.float32]:
        options = TrainingOptions(epochs=1, seed=seed)
        session = TF1Session(export_classifier(tmp_path, small, options=options).path)
        answer = session.run("serving_uint8", small.x_test)
        session.close()
        return answer

    first, again, other = probabilities(1), probabilities(1), probabilities(2)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_a_written_model_that_answers_otherwise_is_not_published(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.signatures import write_saved_model

    def write_with_wrong_divisor(*arguments: Any) -> None:
        classifier, image_shape, _, folder = arguments
        write_saved_model(classifier, image_shape, Normalization(divisor=16.0), folder)

    monkeypatch.setattr("ladle.export.pipeline.write_saved_model", write_with_wrong_divisor)
    with pytest.raises(CheckError, match='signature "serving_uint8": expected the trained model'):
        export_classifier(tmp_path, small, options=ONE_EPOCH)
    assert list(tmp_path.iterdir()) == []


def test_a_base_path_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.pipeline.train", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match="Not a directory"):
        export_classifier(tmp_path / "file" / "model", small)


def test_an_unknown_recipe_is_refused_by_name(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(ValueError, match="recipe: expected mlp, got lenet"):
        export_classifier(tmp_path, small, recipe="lenet")


def test_a_model_that_does_not_fit_in_memory_is_said_to(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def build(*arguments: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("ladle.export.recipes.mlp.build", build)
    with pytest.raises(MemoryError, match=r"small: no room to train on 12 images of \[4, 4\]"):
        export_classifier(tmp_path, small)


def test_another_keras_backend_is_refused(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="expected the backend tensorflow, got jax"):
        export_classifier(tmp_path, small)


@pytest.mark.skipif(not MNIST.exists(), reason=f"{MNIST} is not there")
def test_mnist_reaches_its_accuracy_in_5_epochs(tmp_path: Path) -> None:
    mnist = load_data(MNIST)
    exported = export_classifier(tmp_path, mnist)
    assert exported.card.provenance["training"]["epochs"] == 5
    assert exported.accuracy >= 0.975
    session = TF1Session(exported.path)
    probabilities = session.run("serving_uint8", mnist.x_test)
    session.close()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-5)


def test_the_command_publishes_and_says_how_to_serve(
    tmp_path: Path, npz: Path, ladle_export: Command
) -> None:
    base_path = tmp_path / "my models" / "small"
    finished = ladle_export(base_path, "--data", npz, "--epochs", 1)
    assert finished.returncode == 0
    version, accuracy, serve = finished.stdout.splitlines()
    assert version == f"Published version 1: {base_path}/1"
    assert re.fullmatch(r"Accuracy: [01]\.\d{4} on 6 held-out images", accuracy)
    assert serve == (
        f"Serve it: ladle serve --port=8500 --model_name=small '--model_base_path={base_path}'"
    )
    assert "1/1" in finished.stderr
    assert finished.stderr.count("\n") == 1  # not a word of TensorFlow's own


def test_the_command_in_json_and_quiet(tmp_path: Path, npz: Path, ladle_export: Command) -> None:
    finished = ladle_export(tmp_path / "m", "--data", npz, "--epochs", 1, "--json", "--quiet")
    assert finished.stderr == ""
    summary = json.loads(finished.stdout)
    assert summary["path"] == str(tmp_path / "m" / "1")
    assert summary.keys() == {"version", "path", "accuracy", "held_out_images", "serve"}


def test_a_disk_that_refuses_to_write_on_is_one_line(tmp_path: Path, npz: Path) -> None:
    """A limit on the size of files stands for a full disk, which a test cannot make."""
    program = (
        "import resource, sys; from ladle.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    arguments = [str(tmp_path / "model"), "--data", str(npz), "--epochs", "1", "--quiet"]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 1
    assert finished.stderr == (f"ladle export: {tmp_path}/model: cannot publish: File too large\n")
    assert list((tmp_path / "model").iterdir()) == []


def test_ctrl_c_while_training_is_one_line_and_publishes_nothing(tmp_path: Path, npz: Path) -> None:
    arguments = [str(tmp_path / "model"), "--data", str(npz), "--epochs", "100000"]
    command = [sys.executable, "-m", "ladle.cli", "export", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("Epoch 2/"))
        process.send_signal(signal.SIGINT)
        *_, last = process.stderr
        assert process.wait(60) == 130
    assert last == "ladle: export: interrupted\n"
    assert list((tmp_path / "model").iterdir()) == []
