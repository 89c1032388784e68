"""A version is checked by the server's own loader, and fails where a server would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_models import write_functions

from ladle.protos.files.records import frame, read_records
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.protos.tensors import to_array, to_proto
from ladle.server.wiring.checking.program import Order, Report, check

pytestmark = pytest.mark.e2e


def checked(folder: Path, **flags: Any) -> Report:
    return check(Order(folder=str(folder), flags=flags, every_signature=True))


@pytest.mark.parametrize("model", ["half_plus_two", "half_plus_two_tf2"])
def test_every_signature_runs_examples_parsed_or_not(written_models: Path, model: str) -> None:
    report = checked(written_models / model / "1")
    assert (report.stage, report.refused, report.warmed_up) == ("", {}, [])
    assert {"serving_default"} < set(report.made)
    assert len(report.made) >= 3


def test_a_tflite_model_is_checked_as_it_is_served(written_models: Path) -> None:
    folder = written_models / "half_plus_two_tflite" / "1"
    assert checked(folder, prefer_tflite_model=True).made == ["serving_default"]
    without = checked(folder)
    assert without.stage == "load"
    assert "model.tflite is there: --prefer_tflite_model serves it" in without.reason


def test_a_model_that_a_server_restores_as_objects_says_so(tmp_path: Path) -> None:
    import keras
    import tensorflow as tf

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    tf.saved_model.save(model, str(tmp_path / "1"))
    report = checked(tmp_path / "1")
    assert (report.stage, report.made) == ("", ["serving_default"])
    assert "restored as objects" in report.warnings[0]


def test_what_is_not_whole_fails(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert checked(tmp_path / "1").reason.endswith("there is no saved_model.pb")


def test_a_model_without_signatures_fails(tmp_path: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path / "1"))
    report = checked(tmp_path / "1")
    assert (report.stage, report.reason) == ("signatures", "it has none that a request can call")


def test_a_module_that_is_not_there_fails(written_models: Path) -> None:
    report = checked(written_models / "half_plus_two" / "1", import_modules="no_such_module_here")
    assert report.stage == "load"
    assert "--import_modules: the module 'no_such_module_here' can't be imported" in report.reason


def test_batching_parameters_that_a_server_refuses_fail(
    written_models: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "1"
    shutil.copytree(written_models / "half_plus_two" / "1", folder)
    (folder / "batching_params.pbtxt").write_text("no such field")
    report = checked(folder)
    assert (report.stage, "batching_params.pbtxt" in report.reason) == ("load", True)


def test_open_sizes_strings_and_pictures_are_guessed(tmp_path: Path) -> None:
    import tensorflow as tf

    kernel = tf.ones((5, 5, 3, 1))
    folder = write_functions(
        tmp_path / "1",
        {
            "convolution": (
                lambda x: {"y": tf.nn.conv2d(x, kernel, 1, "VALID")},
                tf.TensorSpec([None, None, None, 3], tf.float32),
            ),
            "pictures": (
                lambda x: {"y": tf.map_fn(tf.io.decode_png, x, fn_output_signature=tf.uint8)},
                tf.TensorSpec([None], tf.string),
            ),
            "numbers": (
                lambda x: {"y": tf.strings.to_number(x)},
                tf.TensorSpec([None], tf.string),
            ),
            "any_rank": (lambda x: {"y": x + 1}, tf.TensorSpec(None, tf.int64)),
        },
    )
    report = checked(folder)
    assert (report.stage, report.refused) == ("", {})
    assert set(report.made) == {"convolution", "pictures", "numbers", "any_rank"}


def test_examples_of_every_kind_of_feature_are_made(tmp_path: Path) -> None:
    import tensorflow as tf

    features = {
        "numbers": tf.io.FixedLenFeature([2, 3], tf.float32),
        "ids": tf.io.VarLenFeature(tf.int64),
        "words": tf.io.RaggedFeature(tf.string),
    }

    def parse(examples: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(examples, features)
        tf.debugging.assert_positive(tf.size(parsed["ids"].values))
        return {"y": parsed["numbers"], "lengths": parsed["words"].row_lengths()}

    report = checked(
        write_functions(tmp_path / "1", {"f": (parse, tf.TensorSpec([None], tf.string))})
    )
    assert (report.stage, report.made) == ("", ["f"])


def test_a_signature_that_refuses_what_it_declares_fails(tmp_path: Path) -> None:
    import tensorflow as tf

    broken = (
        lambda x: {"y": tf.reshape(x, [-1, 7])},
        tf.TensorSpec([None, 4], tf.float32),
    )
    report = checked(write_functions(tmp_path / "1", {"broken": broken}))
    assert report.stage == "signatures"
    assert report.reason.startswith('signature "broken" refuses zeros and ones of the shapes')


def test_strings_that_nobody_can_guess_are_no_failure(tmp_path: Path) -> None:
    import tensorflow as tf

    def take(x: Any) -> dict[str, Any]:
        tf.debugging.assert_equal(x, "open sesame", "this is not the word")
        return {"y": x}

    report = checked(
        write_functions(tmp_path / "1", {"f": (take, tf.TensorSpec([None], tf.string))})
    )
    assert (report.stage, report.made) == ("", [])
    assert "this is not the word" in report.refused["f"]


def test_one_row_only_is_a_warning(tmp_path: Path) -> None:
    import tensorflow as tf

    def take(x: Any) -> dict[str, Any]:
        tf.debugging.assert_less(tf.shape(x)[0], 2, "one row at a time")
        return {"y": x + 1}

    one = (take, tf.TensorSpec([None, 2], tf.float32))
    report = checked(write_functions(tmp_path / "1", {"one": one}))
    assert (report.stage, report.made) == ("", ["one"])
    assert 'signature "one" takes one row, and refuses two' in report.warnings[0]


def test_requests_are_answered_and_timed_and_one_that_fails_ends_no_other(
    written_models: Path, tmp_path: Path
) -> None:
    inputs = [np.array([[2.0]], np.float32), np.array(["text"], object), np.ones((2, 1), "f4")]
    with (tmp_path / "requests").open("wb") as file:
        for x in inputs:
            request = PredictRequest()
            request.inputs["x"].CopyFrom(to_proto(x))
            file.write(frame(request.SerializeToString()))
    report = check(
        Order(
            folder=str(written_models / "half_plus_two_tf2" / "1"),
            requests=str(tmp_path / "requests"),
            answers=str(tmp_path / "answers"),
            timed=[0],
        )
    )
    answers = [PredictResponse.FromString(data) for data in read_records(tmp_path / "answers")]
    assert [bool(error) for error in report.errors] == [False, True, False]
    assert [len(answer.outputs) for answer in answers] == [1, 0, 1]
    np.testing.assert_allclose(to_array(answers[0].outputs["y"]), [[3.0]])
    assert [latency is not None for latency in report.latencies_ms] == [True, False, False]
    assert report.made == []


def test_whatever_a_module_prints_at_its_end_the_report_is_the_last_line(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text("import atexit\natexit.register(print, 'good-bye')\n")
    (tmp_path / "1").mkdir()
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import talks; from ladle.server.wiring.checking.program import main; main()",
        ],
        input=json.dumps({"folder": str(tmp_path / "1")}),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["stage"], report["reason"].endswith("no saved_model.pb")) == ("load", True)
