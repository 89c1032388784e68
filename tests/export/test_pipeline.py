"""The whole export, with a real training each; test_cli.py has the command's quick tests."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
    Requirements,
    TrainingOptions,
    export_classifier,
    load_data,
)
from ladle.export.card import write_card
from ladle.export.fresh import run_here
from ladle.protos.model_card import ModelCard, Normalization
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensorflow_pb import Example
from ladle.protos.tensors import to_array

pytestmark = pytest.mark.e2e

Command = Callable[..., "subprocess.CompletedProcess[str]"]

MNIST = Path(__file__).parents[2].parent / "shared" / "data" / "mnist.npz"
CLASSIFIER_SIGNATURES = {
    "serving_default",
    "serving_uint8",
    "serving_bytes",
    "classify",
    "logits",
}
ONE_EPOCH = TrainingOptions(epochs=1)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data("digits")


@pytest.fixture(scope="module")
def exported(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Published once for all tests that only read it; checked in a fresh process."""
    return export_classifier(tmp_path_factory.mktemp("models") / "digits", digits)


@pytest.fixture
def small(arrays: dict[str, NDArray[Any]]) -> Dataset:
    return Dataset.from_arrays("small", arrays)


@pytest.fixture(autouse=True)
def _check_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing TensorFlow for each export takes long; some tests do it as it is done for real."""
    monkeypatch.setattr("ladle.export.pipeline.run_in_fresh_process", run_here)


class TF1Session:
    """The version in a session, as TensorFlow Serving runs it."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
        self.signatures = meta_graph.signature_def

    def run(
        self, signature: str, given: NDArray[Any], output: str = "probabilities"
    ) -> NDArray[Any]:
        """Return an output of a signature, which takes one input."""
        tensors = self.signatures[signature]
        (taken,) = tensors.inputs.values()
        answer: NDArray[Any] = self._session.run(tensors.outputs[output].name, {taken.name: given})
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
    assert set(loaded.signatures) == CLASSIFIER_SIGNATURES
    outputs = loaded.signatures["serving_uint8"](images=tf.constant(digits.x_test))
    assert np.mean(outputs["probabilities"].numpy().argmax(1) == digits.y_test) == exported.accuracy


def test_encoded_images_are_decoded_and_resized_in_the_graph(
    session: TF1Session, digits: Dataset
) -> None:
    import tensorflow as tf

    expected = session.run("serving_uint8", digits.x_test[:2])
    encoded = [tf.io.encode_png(image[..., None]).numpy() for image in digits.x_test[:2]]
    larger = np.kron(digits.x_test[1], np.ones((4, 4), np.uint8))
    encoded.append(tf.io.encode_png(larger[..., None]).numpy())
    answer = session.run("serving_bytes", np.array(encoded, object))
    np.testing.assert_allclose(answer[:2], expected, rtol=0, atol=1e-6)
    assert answer[2].argmax() == expected[1].argmax()
    jpeg = tf.io.encode_jpeg(larger[..., None], quality=100).numpy()
    assert session.run("serving_bytes", np.array([jpeg], object)).shape == (1, 10)
    assert session.run("serving_bytes", np.array([], object)).shape == (0, 10)


def test_an_image_that_cannot_be_decoded_is_an_error(session: TF1Session) -> None:
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        session.run("serving_bytes", np.array([b"no image"], object))


def test_classify_names_the_classes_of_examples(session: TF1Session, digits: Dataset) -> None:
    examples = [Example(), Example()]
    pixels = digits.x_test[0].ravel().tolist()
    examples[0].features.feature["images"].int64_list.value.extend(pixels)
    from ladle.export.samples import encode

    png = encode(digits.x_test[:1], digits.preparation)[0]
    examples[1].features.feature["image/encoded"].bytes_list.value.append(png)
    inputs = np.array([example.SerializeToString() for example in examples], object)
    expected = session.run("serving_uint8", digits.x_test[[0, 0]])
    np.testing.assert_allclose(session.run("classify", inputs, "scores"), expected, atol=1e-6)
    classes = session.run("classify", inputs, "classes")
    assert classes.tolist() == [[str(n).encode() for n in range(10)]] * 2
    assert session.signatures["classify"].method_name == "tensorflow/serving/classify"
    assert session.signatures["logits"].method_name == "tensorflow/serving/predict"


@pytest.mark.parametrize("pixels", [None, [256] * 64, [-1] * 64, [0] * 63])
def test_an_example_without_an_image_is_refused(
    session: TF1Session, pixels: list[int] | None
) -> None:
    import tensorflow as tf

    example = Example()
    if pixels is not None:
        example.features.feature["images"].int64_list.value.extend(pixels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="images"):
        session.run("classify", np.array([example.SerializeToString()], object), "scores")


def test_class_id_is_the_most_probable(session: TF1Session, digits: Dataset) -> None:
    images = digits.x_test[:50]
    class_id = session.run("serving_uint8", images, "class_id")
    assert class_id.dtype == np.int64
    np.testing.assert_array_equal(class_id, session.run("serving_uint8", images).argmax(axis=1))


def test_the_warmup_file_holds_a_real_request_for_each_signature(
    exported: Exported, digits: Dataset
) -> None:
    import tensorflow as tf

    from ladle.export.warmup import WARMUP_PATH

    records = tf.data.TFRecordDataset(str(exported.path / WARMUP_PATH)).as_numpy_iterator()
    asked = set()
    for text in records:
        log = PredictionLog.FromString(text)
        classify = log.WhichOneof("log_type") == "classify_log"
        request = log.classify_log.request if classify else log.predict_log.request
        asked.add(request.model_spec.signature_name)
        assert request.model_spec.name == "digits"
        if request.model_spec.signature_name == "serving_uint8":
            first = to_array(log.predict_log.request.inputs["images"])
            np.testing.assert_array_equal(first, digits.x_test[:1])
        if classify:
            assert len(log.classify_log.request.input.example_list.examples) == 1
    assert asked == CLASSIFIER_SIGNATURES


def test_a_published_version_can_be_checked_again(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.recheck import check_version
    from ladle.export.warmup import WARMUP_PATH

    assert set(check_version(exported.path)) == CLASSIFIER_SIGNATURES
    monkeypatch.setattr("ladle.export.recheck.run_in_fresh_process", run_here)
    damaged = tmp_path / "1"
    shutil.copytree(exported.path, damaged)
    for content in (b"no record", b"not framed as records are"):
        (damaged / WARMUP_PATH).write_bytes(content)
        with pytest.raises(CheckError, match=r"check warm-up failed: .* cannot be read"):
            check_version(damaged)
    (damaged / "saved_model.pb").unlink()
    with pytest.raises(CheckError, match=r"check load failed: .* expected saved_model\.pb"):
        check_version(damaged)


def test_a_version_that_does_not_load_elsewhere_fails_in_one_line(
    exported: Exported, tmp_path: Path
) -> None:
    from ladle.export.fresh import run_in_fresh_process

    damaged = tmp_path / "1"
    shutil.copytree(exported.path, damaged)
    for path in (damaged / "variables").iterdir():
        path.unlink()
    with pytest.raises(CheckError, match="check load failed: in a process of its own: ") as error:
        run_in_fresh_process(damaged, {})
    assert "\n" not in str(error.value)


def test_images_of_two_channels_cannot_be_decoded_and_still_classify(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    for part in ("x_train", "x_test"):
        arrays[part] = np.stack([arrays[part]] * 2, axis=-1)
    exported = export_classifier(
        tmp_path, Dataset.from_arrays("two channels", arrays), options=ONE_EPOCH
    )
    assert set(exported.card.signatures) == CLASSIFIER_SIGNATURES - {"serving_bytes"}


def test_resizing_is_part_of_every_signature(tmp_path: Path, small: Dataset) -> None:
    exported = export_classifier(tmp_path, small.resized(9, 7), options=ONE_EPOCH)
    assert exported.card.provenance["resize"] == [9, 7]
    inputs = exported.card.signatures["serving_uint8"]["inputs"]
    assert inputs == {"images": {"dtype": "uint8", "shape": [-1, -1, -1]}}
    session = TF1Session(exported.path)
    one, other = small.x_test[:1], np.kron(small.x_test[:1], np.ones((1, 2, 2), np.uint8))
    normalized = small.normalization.apply(one)
    expected = session.run("serving_uint8", one)
    np.testing.assert_allclose(session.run("serving_default", normalized), expected, atol=1e-5)
    assert session.run("serving_uint8", other).shape == (1, 3)
    session.close()


def test_accuracy_below_what_is_required_publishes_nothing(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(CheckError, match="accuracy failed: expected at least 1, got 0"):
        export_classifier(
            tmp_path, small, options=ONE_EPOCH, requirements=Requirements(min_accuracy=1)
        )
    assert list(tmp_path.iterdir()) == []


def test_a_version_worse_than_the_one_now_serving_is_not_published(
    tmp_path: Path, small: Dataset
) -> None:
    (tmp_path / "4").mkdir()
    write_card(ModelCard(metrics={"accuracy": 1.0}), tmp_path / "4")
    with pytest.raises(CheckError, match=r"regression failed: .* version 4's accuracy of 1"):
        export_classifier(
            tmp_path, small, options=ONE_EPOCH, requirements=Requirements(max_regression=0.0)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_an_operation_that_is_not_allowed_publishes_nothing(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from ladle.export.signatures import make_endpoints

    def make_one_that_reads(*arguments: Any) -> Any:
        endpoints = make_endpoints(*arguments)
        function = endpoints["logits"].function

        def read(batch: Any) -> Any:
            with tf.control_dependencies([tf.io.read_file("/dev/null")]):
                return function(tf.identity(batch))

        return endpoints | {"logits": replace(endpoints["logits"], function=read)}

    monkeypatch.setattr("ladle.export.pipeline.make_endpoints", make_one_that_reads)
    with pytest.raises(CheckError, match="operations failed: the graph holds ReadFile"):
        export_classifier(tmp_path, small, options=ONE_EPOCH)
    assert list(tmp_path.iterdir()) == []
    allowed = Requirements(allow_op=("ReadFile",))
    assert export_classifier(tmp_path, small, options=ONE_EPOCH, requirements=allowed).version == 1


def test_the_version_number_may_be_given_or_the_time(tmp_path: Path, small: Dataset) -> None:
    def export(version: Any) -> int:
        return export_classifier(tmp_path, small, options=ONE_EPOCH, version=version).version

    assert export(7) == 7
    started = time.time()
    assert int(started) <= export("timestamp") <= time.time()
    with pytest.raises(ValueError, match="version: expected 0 to"):
        export(-1)


def test_a_version_that_is_there_is_refused_before_training(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.pipeline.train", None)
    (tmp_path / "007").mkdir()
    with pytest.raises(PublishError, match=r"version 7 is there already \(007\)"):
        export_classifier(tmp_path, small, version=7)


def test_a_regression_has_values_and_answers_regress(
    tmp_path: Path, arrays: dict[str, NDArray[Any]]
) -> None:
    rng = np.random.default_rng(1)
    arrays |= {
        "x_train": rng.normal(size=(12, 3)).astype(np.float32),
        "x_test": rng.normal(size=(6, 3)).astype(np.float32),
    }
    normalization = Normalization(offset=(1.0, 2.0, 3.0), divisor=2.0)
    dataset = Dataset.from_arrays("numbers", arrays, normalization, regression=True)
    exported = export_classifier(tmp_path, dataset, options=ONE_EPOCH)
    assert exported.card.labels == ()
    assert exported.card.metrics.keys() == {"mae", "mse"}
    session = TF1Session(exported.path)
    assert session.signatures["regress"].method_name == "tensorflow/serving/regress"
    prepared = normalization.apply(dataset.x_test)
    expected = session.run("serving_default", prepared, "values")
    assert expected.shape == (6,)
    example = Example()
    example.features.feature["features"].float_list.value.extend(dataset.x_test[0].tolist())
    inputs = np.array([example.SerializeToString()], object)
    np.testing.assert_allclose(session.run("regress", inputs, "outputs"), expected[:1], atol=1e-6)
    raw = session.run("serving_raw", dataset.x_test, "values")
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    session.close()
    with pytest.raises(ValueError, match="a regression has no accuracy"):
        export_classifier(tmp_path, dataset, requirements=Requirements(min_accuracy=0.5))


def test_only_what_serving_needs_is_written(exported: Exported, session: TF1Session) -> None:
    """Two Dense layers' kernels and biases: no optimizer, no dropout, nothing twice."""
    import tensorflow as tf

    variables = tf.train.list_variables(str(exported.path / "variables" / "variables"))
    shapes = sorted(tuple(shape) for name, shape in variables if name.endswith("VARIABLE_VALUE"))
    assert shapes == [(10,), (64, 128), (128,), (128, 10)]
    assert set(session.signatures) == CLASSIFIER_SIGNATURES | {"__saved_model_init_op"}


def test_the_card_lies_beside_the_model_and_tells_of_it(
    exported: Exported, digits: Dataset
) -> None:
    card = ModelCard.from_json((exported.path / "assets.extra" / "ladle.json").read_bytes())
    assert card == exported.card
    assert card.labels == tuple("0123456789")
    assert card.normalization == Normalization(divisor=16.0)
    scores = {"dtype": "float32", "shape": [-1, 10]}
    outputs = {"probabilities": scores, "class_id": {"dtype": "int64", "shape": [-1]}}
    images = {"dtype": "float32", "shape": [-1, 8, 8]}
    strings = {"dtype": "string", "shape": [-1]}
    assert card.signatures == {
        "serving_default": {"inputs": {"images": images}, "outputs": outputs},
        "serving_uint8": {
            "inputs": {"images": images | {"dtype": "uint8"}},
            "outputs": outputs,
        },
        "serving_bytes": {"inputs": {"images": strings}, "outputs": outputs},
        "logits": {"inputs": {"images": images}, "outputs": {"logits": scores}},
        "classify": {
            "inputs": {"inputs": strings},
            "outputs": {"classes": scores | {"dtype": "string"}, "scores": scores},
        },
    }
    assert set(card.provenance["latency_ms"]) == CLASSIFIER_SIGNATURES
    assert all(latency > 0 for latency in card.provenance["latency_ms"].values())
    files = [path for path in exported.path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if path.name != "ladle.json")
    assert card.provenance["size_bytes"] == size
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
    from ladle.export.signatures import make_endpoints

    def make_with_wrong_divisor(*arguments: Any) -> Any:
        trained, preparation, labels = arguments
        wrong = replace(preparation, normalization=Normalization(divisor=16.0))
        return make_endpoints(trained, wrong, labels)

    monkeypatch.setattr("ladle.export.pipeline.make_endpoints", make_with_wrong_divisor)
    with pytest.raises(CheckError, match=r'signatures failed: signature "[a-z0-9_]+": output'):
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
    with pytest.raises(ValueError, match="recipe: expected mlp, mlp-plain, lenet, got vgg"):
        export_classifier(tmp_path, small, recipe="vgg")


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
