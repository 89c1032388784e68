"""Warm-up requests of a published version, read and run as a server replays them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import check_in_this_process

from ladle.export import CheckError
from ladle.export.models.cli import main
from ladle.export.models.verify import check_version
from ladle.export.publishing.card import write_card
from ladle.export.saved_model.warmup import WARMUP_PATH
from ladle.protos.model_card import ModelCard
from ladle.protos.serving_pb import Input, PredictionLog
from ladle.protos.tensorflow_pb import Example
from ladle.protos.tensors import to_proto
from ladle.server.warmup.records import frame


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that counts, whose inputs are no batches, and that reads examples."""
    import tensorflow as tf

    module = tf.Module()
    module.counter = tf.Variable(0.0)

    def add(delta: Any) -> dict[str, Any]:
        return {"output": module.counter.assign_add(delta)}

    def regress(inputs: Any) -> dict[str, Any]:
        features = {name: tf.io.FixedLenFeature([1], tf.float32) for name in ("x", "y")}
        parsed = tf.io.parse_example(inputs, features)
        return {"outputs": parsed["x"] + parsed["y"]}

    scalar = tf.TensorSpec([], tf.float32, "delta")
    examples = tf.TensorSpec([None], tf.string, "inputs")
    module.add = tf.function(add, input_signature=[scalar])
    module.regress = tf.function(regress, input_signature=[examples])
    folder = tmp_path_factory.mktemp("models") / "counter" / "1"
    signatures = {"serving_default": module.add, "regress": module.regress}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    (folder / WARMUP_PATH).parent.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ladle.export.models.verify.check", check_in_this_process)


def add(delta: float, signature: str = "") -> PredictionLog:
    log = PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["delta"].CopyFrom(to_proto(np.array(delta, np.float32)))
    return log


def example(**features: float) -> Example:
    made = Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def regress(given: Input) -> PredictionLog:
    log = PredictionLog()
    log.regress_log.request.model_spec.signature_name = "regress"
    log.regress_log.request.input.CopyFrom(given)
    return log


def write(version: Path, logs: Iterable[PredictionLog]) -> None:
    records = (frame(log.SerializeToString()) for log in logs)
    (version / WARMUP_PATH).write_bytes(b"".join(records))


def test_a_request_that_names_no_signature_is_to_the_default_one(version: Path) -> None:
    write(version, [add(1)])
    assert check_version(version).warmed_up == ["serving_default"]


def test_inputs_without_rows_are_sent_as_they_are(version: Path) -> None:
    write(version, [add(1, "serving_default")])
    assert check_version(version).warmed_up == ["serving_default"]


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_every_request_of_a_signature_runs(version: Path, bad: int) -> None:
    write(version, [add(np.nan if n == bad else 1) for n in range(3)])
    with pytest.raises(CheckError, match=r'"serving_default": output "output": not finite'):
        check_version(version)


def test_a_context_goes_with_each_of_its_examples(version: Path) -> None:
    given = Input()
    given.example_list_with_context.context.CopyFrom(example(x=1))
    given.example_list_with_context.examples.extend([example(y=2), example(y=3)])
    write(version, [regress(given)])
    assert check_version(version).warmed_up == ["regress"]
    plain = Input()
    plain.example_list.examples.append(example(y=2))
    write(version, [regress(plain)])
    with pytest.raises(CheckError, match=r"check warm-up failed: .*\bx\b"):
        check_version(version)


def test_what_asks_for_nothing_is_passed_over(version: Path) -> None:
    write(version, [PredictionLog()])
    checked = check_version(version)
    assert (checked.warmed_up, set(checked.made)) == ([], {"serving_default", "regress"})


def test_a_request_for_several_signatures_runs_as_in_a_server(version: Path) -> None:
    several = PredictionLog()
    several.multi_inference_log.request.tasks.add()
    write(version, [several])
    with pytest.raises(CheckError, match=r"check warm-up failed: .*Found empty model_spec name"):
        check_version(version)


def test_what_a_server_refuses_is_refused(version: Path) -> None:
    session = PredictionLog()
    session.session_run_log.SetInParent()
    write(version, [session])
    with pytest.raises(CheckError, match=r"check warm-up failed: .*a session_run_log can't be"):
        check_version(version)
    write(version, [add(0)] * 1001)
    with pytest.raises(CheckError, match="expected at most 1000 warm-up records"):
        check_version(version)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("saved_model.pb", ": saved_model.pb is cut short"),
        ("saved_model.pbtxt", "/saved_model.pbtxt: expected a SavedModel, and it is damaged"),
    ],
)
def test_a_damaged_model_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, says: str
) -> None:
    (tmp_path / "m" / "3").mkdir(parents=True)
    (tmp_path / "m" / "3" / name).write_bytes(b"\x0a\xff cut off")
    assert main(["check", str(tmp_path / "m" / "3")]) == 1
    error = capsys.readouterr().err
    assert error == f"ladle models: check load failed: {tmp_path}/m/3{says}\n"


def test_a_model_in_text_is_checked(version: Path, tmp_path: Path) -> None:
    from google.protobuf import text_format

    from ladle.export.saved_model.reading import read_saved_model

    copy = tmp_path / "1"
    shutil.copytree(version, copy)
    (copy / "saved_model.pbtxt").write_text(text_format.MessageToString(read_saved_model(version)))
    (copy / "saved_model.pb").unlink()
    write(copy, [add(1)])
    assert check_version(copy).warmed_up == ["serving_default"]


def test_modules_that_the_card_names_are_imported_only_if_allowed(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "1"
    shutil.copytree(version, copy)
    write(copy, [])
    write_card(ModelCard(import_modules=("named_by_a_card",)), copy)
    (tmp_path / "named_by_a_card.py").write_text("from pathlib import Path; Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    allowed = "--import_modules=named_by_a_card"
    with pytest.raises(CheckError, match=f"it needs named_by_a_card: importing .*{allowed}"):
        check_version(copy)
    assert not Path("ran").exists()
    assert main(["check", str(copy), allowed]) == 0
    assert Path("ran").exists()


def test_what_ran_on_made_inputs_is_told(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(version, [])
    assert main(["check", str(version), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["made_inputs"]) == {"serving_default", "regress"}
    assert main(["check", str(version)]) == 0
    assert f"Ran on made inputs: {', '.join(told['made_inputs'])}" in capsys.readouterr().out
