from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_models import write_half_plus_two

from ladle.export import DataError
from ladle.export.models.cli import main
from ladle.export.saved_model.warmup_from_log import write_warmup_from_logs
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensors import to_proto
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.warmup.records import frame, read_records
from ladle.server.warmup.replay import WARMUP_PATH, WarmupOptions, warm_up


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "half_plus_two"
    write_half_plus_two(folder / "1")
    return folder


def predict(
    rows: int = 1, signature: str = "serving_default", model: str = "half_plus_two", **given: Any
) -> PredictionLog:
    log = PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.model_spec.version.value = 77
    request.model_spec.signature_name = signature
    request.inputs["x"].CopyFrom(to_proto(np.ones((rows,), np.float32)))
    request.output_filter.extend(given.get("output_filter", []))
    log.predict_log.response.model_spec.name = model
    log.log_metadata.timestamp_secs = 1
    return log


def write(path: Path, logs: Iterable[PredictionLog], end: bytes = b"") -> Path:
    path.write_bytes(b"".join(frame(log.SerializeToString()) for log in logs) + end)
    return path


def written(model: Path) -> list[PredictionLog]:
    return [PredictionLog.FromString(data) for data in read_records(model / "1" / WARMUP_PATH)]


def test_a_log_becomes_a_warm_up_file_that_a_server_replays(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify = PredictionLog()
    spec = classify.classify_log.request.model_spec
    spec.name, spec.signature_name = "half_plus_two", "classify_x_to_y"
    example = classify.classify_log.request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1.0)
    write(tmp_path / "log-20261122T000000-00001.tfrecord", [predict(1), predict(5), classify])
    write(tmp_path / "log-20261122T000000-00002.tfrecord", [predict(output_filter=["y"])])

    assert main(["warmup", str(model), "--from", str(tmp_path / "log"), "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["records"], told["read"], told["version"]) == (3, 4, 1)
    assert told["signatures"] == ["classify_x_to_y", "serving_default"]
    logs = written(model)
    assert [log.WhichOneof("log_type") for log in logs] == [
        "predict_log",
        "classify_log",
        "predict_log",
    ]
    assert not any(log.HasField("log_metadata") for log in logs)
    assert not logs[0].predict_log.HasField("response")
    assert not logs[0].predict_log.request.model_spec.HasField("version")
    assert os.listdir(model / "1" / WARMUP_PATH.parent) == [WARMUP_PATH.name], "nothing is left"
    servable_id = ServableId("half_plus_two", 1)
    servable = load_saved_model(servable_id, model / "1", LoadOptions())
    assert warm_up(servable_id, model / "1", servable, WarmupOptions(batch_sizes=(1, 4))) == 3
    servable.close()


def test_what_the_version_can_t_run_is_left_out(model: Path, tmp_path: Path) -> None:
    log = write(tmp_path / "log", [predict(signature="of_an_older_version"), predict()])

    told = write_warmup_from_logs(model / "1", [log])

    assert (told.records, told.without_signature) == (1, 1)


def test_no_more_are_taken_than_asked_for(model: Path, tmp_path: Path) -> None:
    logs = [predict(), predict(signature="regress_x_to_y"), predict(output_filter=["y"])]
    log = write(tmp_path / "log", logs)

    assert write_warmup_from_logs(model / "1", [log], records=2).records == 2
    assert len(written(model)) == 2


def test_a_log_that_is_cut_off_is_read_to_there(model: Path, tmp_path: Path) -> None:
    log = write(tmp_path / "log", [predict()], end=frame(b"x" * 100)[:50])

    told = write_warmup_from_logs(model / "1", [log])

    assert (told.records, told.damaged) == (1, [str(log)])


def test_a_log_without_fitting_requests_leaves_the_file_as_it_is(
    model: Path, tmp_path: Path
) -> None:
    write_warmup_from_logs(model / "1", [write(tmp_path / "good", [predict()])])
    before = written(model)

    for logs, says in [
        ([predict(signature="another")], "expected requests to the signatures"),
        ([predict(), predict(model="another")], "name the model with --model"),
        ([PredictionLog()], "found none in 0 records"),
    ]:
        with pytest.raises(DataError, match=says):
            write_warmup_from_logs(model / "1", [write(tmp_path / "log", logs)])
    with pytest.raises(DataError, match="expected a request log"):
        write_warmup_from_logs(model / "1", [tmp_path / "nowhere"])
    assert written(model) == before


def test_requests_of_one_model_can_be_picked(model: Path, tmp_path: Path) -> None:
    log = write(tmp_path / "log", [predict(model="another"), predict(output_filter=["y"])])

    told = write_warmup_from_logs(model / "1", [log], model="half_plus_two")

    assert (told.records, told.read) == (1, 1)
    assert written(model)[0].predict_log.request.output_filter == ["y"]


def test_the_command_refuses_a_number_that_no_server_takes(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["warmup", str(model), "--from", "log", "--records", "1001"])

    assert "expected 1 to 1000, got '1001'" in capsys.readouterr().err
