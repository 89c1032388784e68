"""What is checked before a version is published, and what is published with it."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import check_in_this_process
from exporting import CLASSIFIER_SIGNATURES, ONE_EPOCH, TF1Session

from ladle.export import (
    CheckError,
    Dataset,
    Exported,
    ExportError,
    PublishError,
    Requirements,
    export_model,
)
from ladle.export.publishing.card import write_card
from ladle.protos.model_card import ModelCard, Normalization
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensors import to_array

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("checked_here")]


def test_digits_reach_their_accuracy(exported: Exported) -> None:
    assert exported.version == 1
    assert exported.accuracy >= 0.95


def test_the_accuracy_on_the_card_is_that_of_the_published_model(
    exported: Exported, session: TF1Session, digits: Dataset
) -> None:
    predicted = session.run("serving_uint8", digits.x_test).argmax(axis=1)
    assert np.mean(predicted == digits.y_test) == exported.accuracy


def test_the_warmup_file_holds_a_real_request_for_each_signature(
    exported: Exported, digits: Dataset
) -> None:
    import tensorflow as tf

    from ladle.export.saved_model.warmup import WARMUP_PATH

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
    from ladle.export.models.verify import check_version
    from ladle.export.saved_model.warmup import WARMUP_PATH

    monkeypatch.setattr("ladle.export.models.verify.check", check_in_this_process)
    assert set(check_version(exported.path).warmed_up) == CLASSIFIER_SIGNATURES
    damaged = tmp_path / "1"
    shutil.copytree(exported.path, damaged)
    for content in (b"no record", b"not framed as records are"):
        (damaged / WARMUP_PATH).write_bytes(content)
        with pytest.raises(CheckError, match=r"check warm-up failed: .* is damaged"):
            check_version(damaged)
    (damaged / "saved_model.pb").unlink()
    with pytest.raises(CheckError, match=r"check load failed: .* there is no saved_model\.pb"):
        check_version(damaged)


def test_a_version_that_does_not_load_elsewhere_fails_in_one_line(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.saved_model.subprocess_check import run_in_subprocess

    # What lies in the working folder is no part of Python, whatever it is called.
    (tmp_path / "queue.py").write_text("raise SystemExit('somebody else ran')")
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "1"
    shutil.copytree(exported.path, damaged)
    for path in (damaged / "variables").iterdir():
        path.unlink()
    with pytest.raises(CheckError, match=r"check load failed: .*: there is no variables") as error:
        run_in_subprocess(damaged, [])
    assert "\n" not in str(error.value)
    assert "somebody else" not in str(error.value)


def test_no_room_for_another_process_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    from ladle.export.saved_model.subprocess_check import run_in_subprocess

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CheckError, match=r"load failed: for a .*gone: No such file or directory$"):
        run_in_subprocess(tmp_path, [])


def test_accuracy_below_what_is_required_publishes_nothing(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(CheckError, match="accuracy failed: expected at least 1, got 0"):
        export_model(tmp_path, small, options=ONE_EPOCH, requirements=Requirements(min_accuracy=1))
    assert list(tmp_path.iterdir()) == []


def test_a_version_worse_than_the_one_now_serving_is_not_published(
    tmp_path: Path, small: Dataset
) -> None:
    (tmp_path / "4").mkdir()
    write_card(ModelCard(metrics={"accuracy": 1.0}), tmp_path / "4")
    with pytest.raises(CheckError, match=r"regression failed: .* version 4's accuracy of 1"):
        export_model(
            tmp_path, small, options=ONE_EPOCH, requirements=Requirements(max_regression=0.0)
        )
    assert [path.name for path in tmp_path.iterdir()] == ["4"]


def test_an_operation_that_is_not_allowed_publishes_nothing(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from ladle.export.saved_model.signatures import make_endpoints

    def make_one_that_reads(*arguments: Any) -> Any:
        endpoints = make_endpoints(*arguments)
        function = endpoints["logits"].function

        def read(batch: Any) -> Any:
            with tf.control_dependencies([tf.io.read_file("/dev/null")]):
                return function(tf.identity(batch))

        return endpoints | {"logits": replace(endpoints["logits"], function=read)}

    monkeypatch.setattr("ladle.export.single_io.export.make_endpoints", make_one_that_reads)
    with pytest.raises(CheckError, match="operations failed: the graph holds ReadFile"):
        export_model(tmp_path, small, options=ONE_EPOCH)
    assert list(tmp_path.iterdir()) == []
    allowed = Requirements(allow_op=("ReadFile",))
    assert export_model(tmp_path, small, options=ONE_EPOCH, requirements=allowed).version == 1


def test_the_version_number_may_be_the_time(tmp_path: Path, small: Dataset) -> None:
    started = time.time()
    exported = export_model(tmp_path, small, options=ONE_EPOCH, version="timestamp")
    assert int(started) <= exported.version <= time.time()
    assert exported.path == tmp_path / str(exported.version)
    with pytest.raises(ValueError, match="version: expected 0 to"):
        export_model(tmp_path, small, version=-1)


def test_a_version_that_is_there_is_refused_before_training(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.single_io.export.train", None)
    (tmp_path / "007").mkdir()
    with pytest.raises(PublishError, match=r"version 7 is there already \(007\)"):
        export_model(tmp_path, small, version=7)


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


def test_a_written_model_that_answers_otherwise_is_not_published(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.export.saved_model.signatures import make_endpoints

    def make_with_wrong_divisor(*arguments: Any) -> Any:
        trained, preparation, labels = arguments
        wrong = replace(preparation, normalization=Normalization(divisor=16.0))
        return make_endpoints(trained, wrong, labels)

    monkeypatch.setattr("ladle.export.single_io.export.make_endpoints", make_with_wrong_divisor)
    with pytest.raises(CheckError, match=r'signatures failed: signature "[a-z0-9_]+": output'):
        export_model(tmp_path, small, options=ONE_EPOCH)
    assert list(tmp_path.iterdir()) == []


def test_a_base_path_that_cannot_be_written_is_told_before_training(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.export.single_io.export.train", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match="Not a directory"):
        export_model(tmp_path / "file" / "model", small)


def test_an_unknown_recipe_is_refused_by_name(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(
        ValueError, match="recipe: expected mlp, mlp-plain, lenet, bag-of-words, got vgg"
    ):
        export_model(tmp_path, small, recipe="vgg")


def test_a_model_that_does_not_fit_in_memory_is_said_to(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    def build(*arguments: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("ladle.export.training.recipes.mlp.build", build)
    with pytest.raises(MemoryError, match=r"small: no room to train on 12 images of \[4, 4\]"):
        export_model(tmp_path, small)


def test_another_keras_backend_is_refused(
    tmp_path: Path, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="expected the backend tensorflow, got jax"):
        export_model(tmp_path, small)


def test_a_model_that_diverged_is_not_published(tmp_path: Path, small: Dataset) -> None:
    options = replace(ONE_EPOCH, optimizer="sgd", learning_rate=1e30, batch_size=2)
    with pytest.raises(CheckError, match=r"answers failed: .* not finite; a smaller learning rate"):
        export_model(tmp_path, small, options=options)
    assert list(tmp_path.iterdir()) == []
