from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S
from server.monitoring.conftest import PREDICT, Watch, Watched, predict_request
from server.open_inference.harness import row

from ladle.protos import tensors
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.ladle_pb import PredictStreamRequest
from ladle.protos.serving_pb import (
    ModelServerConfig,
    PredictionLog,
    PredictRequest,
    PredictResponse,
    ReloadConfigRequest,
)
from ladle.server.core.errors import Code, InvalidArgument
from ladle.server.core.machine import malloc
from ladle.server.core.models.config import (
    ModelConfig,
    RequestLogging,
    from_proto,
    model_from_proto,
    to_proto,
)
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.monitoring.log_files import RotatingFiles, Rotation, log_files
from ladle.server.monitoring.request_log import LogOptions, RequestLogs
from ladle.server.warmup.records import frame, read_records

INFERENCE = "/inference.GRPCInferenceService"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
STREAM = "/ladle.v1.StreamingPrediction/PredictStream"


class Counts:
    """Counts as Metrics does."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, str]] = []
        self.dropped: list[str] = []

    def request_logged(self, model: str, code: Code) -> None:
        self.logged.append((model, code.name))

    def log_dropped(self, log: str, reason: str) -> None:
        self.dropped.append(reason)


def server_config(folder: Path, rate: float | None) -> ModelServerConfig:
    config = ModelServerConfig()
    model = config.model_config_list.config.add(
        name="m", base_path=str(folder / "m"), model_platform="tensorflow"
    )
    if rate is not None:
        logging = model.logging_config
        logging.sampling_config.sampling_rate = rate
        logging.log_collector_config.filename_prefix = str(folder / "logs" / "requests")
    return config


def logged(folder: Path) -> list[PredictionLog]:
    files = log_files(folder / "logs" / "requests") if (folder / "logs").exists() else []
    return [PredictionLog.FromString(data) for file in files for data in read_records(file)]


def reload(watched: Watched, config: ModelServerConfig) -> None:
    watched.call(RELOAD, ReloadConfigRequest(config=config).SerializeToString())


def flush(watched: Watched) -> None:
    assert watched.server.request_logs.flush(TIMEOUT_S)


def test_requests_and_answers_are_logged_as_they_were(watch: Watch, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(str(server_config(tmp_path, 1.0)))
    watched = watch(model_config_file=str(file))

    sent = predict_request(rows=2)
    answer = watched.call(PREDICT, sent)
    assert watched.http.post("/v1/models/m:predict", json={"instances": [[1, 2]]}).is_success
    assert watched.http.post("/v1/models/m:predict", json={"instances": 1}).status_code == 400
    stream: Any = watched.channel.stream_stream(STREAM, None, None)
    message = PredictStreamRequest(id=7, request=PredictRequest.FromString(sent))
    list(stream(iter([message.SerializeToString()]), timeout=TIMEOUT_S))
    flush(watched)

    over_grpc, over_rest, streamed = logged(tmp_path)
    assert over_grpc.predict_log.request == PredictRequest.FromString(sent)
    assert over_grpc.predict_log.response == PredictResponse.FromString(answer)
    metadata = over_grpc.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 1)
    assert metadata.model_spec.signature_name == "serving_default"
    assert metadata.sampling_config.sampling_rate == 1.0
    assert metadata.timestamp_secs > 0
    assert over_rest.predict_log.request.inputs["x"].tensor_shape.dim[0].size == 1
    assert over_rest.predict_log.response.outputs["y"].tensor_shape.dim[0].size == 1
    assert streamed.predict_log.request == PredictRequest.FromString(sent)
    assert streamed.predict_log.response.outputs == over_grpc.predict_log.response.outputs
    told = watched.samples()
    assert told.sum(":tensorflow:serving:request_log_count", status_code="OK") == 3


def test_a_reload_turns_logging_on_and_off(watch: Watch, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text(str(server_config(tmp_path, None)))
    watched = watch(model_config_file=str(file))

    for rate, calls in ((None, 2), (1.0, 3), (0.0, 4), (None, 5)):
        reload(watched, server_config(tmp_path, rate))
        for _ in range(calls):
            watched.call(PREDICT, predict_request())
    flush(watched)

    assert len(logged(tmp_path)) == 3


def observation(model: str = "m", nbytes: int = 10) -> Observation:
    seen = Observation("Predict", "GRPC", bytes(nbytes))
    seen.model = model
    return seen


def configured(prefix: Path, rate: float = 1.0) -> dict[str, ModelConfig]:
    return {"m": ModelConfig("m", Path("/m"), logging=RequestLogging(rate, str(prefix)))}


def test_the_lot_decides_what_is_logged(tmp_path: Path) -> None:
    lots = iter([0.0, 0.49, 0.5, 0.99])
    counts = Counts()
    models = configured(tmp_path / "log", 0.5)
    logs = RequestLogs(lambda: models, counts, sample=lambda: next(lots))
    for _ in range(4):
        observation().end(b"answer", logs)
    observation("another").end(b"answer", logs)
    assert logs.flush(TIMEOUT_S)

    assert counts.logged == [("m", "OK")] * 2
    logs.stop(TIMEOUT_S)


def test_a_large_request_is_counted_and_not_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is let go of before its answer is there; over REST an empty one is left."""
    monkeypatch.setattr(malloc, "LARGE_BYTES", 1000)
    counts = Counts()
    logs = RequestLogs(lambda: configured(tmp_path / "log"), counts)
    observation(nbytes=1000).end(b"answer", logs)
    for message in (None, b""):
        release = observation(nbytes=1000)
        release.request = message
        release.end(b"answer", logs)

    assert counts.dropped == ["too_large"] * 3
    assert counts.logged == [("m", "RESOURCE_EXHAUSTED")] * 3


def test_a_full_queue_drops_and_counts_and_blocks_nobody(tmp_path: Path) -> None:
    counts = Counts()
    options = LogOptions(max_records=10, max_bytes=150)
    logs = RequestLogs(lambda: configured(tmp_path / "log"), counts, options)
    sent = 0
    while not counts.dropped:  # the writer may be quick for a while
        observation(nbytes=100).end(b"0123456789", logs)
        sent += 1
    logs.stop(TIMEOUT_S)

    assert counts.dropped == ["queue_full"]
    assert sorted(counts.logged) == [("m", "OK")] * (sent - 1) + [("m", "RESOURCE_EXHAUSTED")]


def test_a_disk_that_fails_is_counted_and_logging_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "logs"
    in_the_way.write_text("a file where a folder should be")
    counts = Counts()
    logs = RequestLogs(lambda: configured(tmp_path / "logs" / "log"), counts)
    for _ in range(2):
        observation().end(b"answer", logs)
    assert logs.flush(TIMEOUT_S)
    assert counts.logged == [("m", "INTERNAL")] * 2
    assert len([r for r in caplog.records if "can't be logged" in r.message]) == 1

    in_the_way.unlink()
    observation().end(b"answer", logs)
    logs.stop(TIMEOUT_S)

    assert counts.logged[-1] == ("m", "OK")
    (file,) = log_files(tmp_path / "logs" / "log")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(list(read_records(file))) == 1


def test_files_are_followed_by_others_and_the_oldest_go(tmp_path: Path) -> None:
    (tmp_path / "log-of-another.tfrecord").touch()
    files = RotatingFiles(
        str(tmp_path / "log"), Rotation(max_file_bytes=60, max_files=3), now=lambda: 0.0
    )
    for n in range(20):
        files.write(frame(b"%020d" % n))
    files.close()

    kept = log_files(tmp_path / "log")
    assert [path.name for path in kept] == [
        f"log-19700101T000000-{number:05d}.tfrecord" for number in (8, 9, 10)
    ]
    assert [list(read_records(path)) for path in kept] == [
        [b"%020d" % n for n in pair] for pair in ((14, 15), (16, 17), (18, 19))
    ]
    assert (tmp_path / "log-of-another.tfrecord").exists()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether the disk is full: then half of what is written gets there."""
    fdopen = os.fdopen
    is_full = False

    class File:
        def __init__(self, opened: int, mode: str) -> None:
            self.file = fdopen(opened, mode)

        def write(self, record: bytes) -> None:
            if is_full:
                self.file.write(record[: len(record) // 2])
                self.file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")
            self.file.write(record)

        def flush(self) -> None:
            self.file.flush()

        def close(self) -> None:
            self.file.close()

    def change(to: bool) -> None:
        nonlocal is_full
        is_full = to

    def open_file(opened: int, mode: str) -> Any:
        return File(opened, mode) if mode == "wb" else fdopen(opened, mode)

    monkeypatch.setattr(os, "fdopen", open_file)
    return change


def test_a_clock_that_is_set_back_takes_no_newer_log(tmp_path: Path) -> None:
    """Names tell which file is the oldest: new ones would have been the first to go."""
    times = iter([2e9, 1e9, 1e9, 1e9, 1e9])
    rotation = Rotation(max_file_bytes=1, max_files=3)
    files = RotatingFiles(str(tmp_path / "log"), rotation, now=lambda: next(times))
    for record in (b"a", b"b", b"c"):
        files.write(record)
    files.close()
    # Another process goes on after the newest, too.
    files = RotatingFiles(str(tmp_path / "log"), rotation, now=lambda: next(times))
    for record in (b"d", b"e"):
        files.write(record)
    files.close()
    assert [path.read_bytes() for path in log_files(tmp_path / "log")] == [b"c", b"d", b"e"]


def test_a_full_disk_takes_no_log_that_is_there(
    tmp_path: Path, full_disk: Callable[[bool], None]
) -> None:
    files = RotatingFiles(str(tmp_path / "log"), Rotation(max_file_bytes=60, max_files=3))
    for n in range(5):
        files.write(frame(b"%020d" % n))
    full_disk(True)
    for n in range(20):
        with pytest.raises(OSError, match="No space left"):
            files.write(frame(b"%020d" % n))
    full_disk(False)
    files.write(frame(b"%020d" % 5))
    files.close()

    kept = [list(read_records(path)) for path in log_files(tmp_path / "log")]
    assert kept == [[b"%020d" % n for n in ns] for ns in ((2, 3), (4,), (5,))]


def test_old_files_that_can_not_be_removed_keep_nothing_from_being_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As those of another user in a folder such as /tmp."""
    of_another = [tmp_path / f"log-19700101T000000-{n:05d}.tfrecord" for n in range(3)]
    for path in of_another:
        path.touch()
    unlink = Path.unlink

    def guarded(path: Path, missing_ok: bool = False) -> None:
        if path in of_another:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", guarded)
    files = RotatingFiles(str(tmp_path / "log"), Rotation(max_files=3))
    for n in range(20):
        files.write(frame(b"%020d" % n))
    files.close()

    (own,) = set(log_files(tmp_path / "log")) - set(of_another)
    assert len(list(read_records(own))) == 20
    assert len([r for r in caplog.records if "can't be removed" in r.message]) == 1


def test_no_file_is_made_where_old_ones_can_not_be_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    files = RotatingFiles(str(tmp_path / "log"), Rotation())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse)
        for _ in range(3):
            with pytest.raises(PermissionError):
                files.write(frame(b"x"))

    assert list(tmp_path.iterdir()) == []


def test_what_no_thread_can_write_is_dropped_until_one_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    logs = RequestLogs(lambda: configured(tmp_path / "log"), counts)

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        observation().end(b"answer", logs)
    assert counts.dropped == ["no_thread"]

    observation().end(b"answer", logs)
    logs.stop(TIMEOUT_S)
    assert counts.logged == [("m", "RESOURCE_EXHAUSTED"), ("m", "OK")]


def test_refused_requests_are_not_logged(tmp_path: Path) -> None:
    counts = Counts()
    logs = RequestLogs(lambda: configured(tmp_path / "log"), counts)
    observation().end(InvalidArgument("no"), logs)
    assert logs.flush(TIMEOUT_S)

    assert counts.logged == []
    assert Unobserved().request_ended(observation()) is None  # type: ignore[func-returns-value]


def test_a_logging_config_survives_the_way_there_and_back(tmp_path: Path) -> None:
    (model,) = from_proto(server_config(tmp_path, 0.25))

    assert model.logging == RequestLogging(0.25, str(tmp_path / "logs" / "requests"))
    assert model_from_proto(to_proto(model)) == model


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"filename_prefix": "relative/path"}, "expected an absolute path"),
        ({"filename_prefix": "/folder/"}, "expected an absolute path with a name at its end"),
        ({"filename_prefix": ""}, "expected an absolute path"),
        ({"type": "kafka"}, "expected type \"file\", got 'kafka'"),
        ({"rate": 1.5}, "sampling_rate: expected 0 to 1, got 1.5"),
        ({"rate": float("nan")}, "sampling_rate: expected 0 to 1, got nan"),
    ],
)
def test_a_logging_config_that_can_t_be_followed_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    config = server_config(tmp_path, change.pop("rate", 1.0))
    collector = config.model_config_list.config[0].logging_config.log_collector_config
    for name, value in change.items():
        setattr(collector, name, value)

    with pytest.raises(InvalidArgument, match="model m: logging_config") as caught:
        from_proto(config)
    assert says in caught.value.message


def infer_request(model: str, *, typed: bool = False) -> ModelInferRequest:
    message = ModelInferRequest(model_name=model, id="7")
    given = message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    if typed:
        given.contents.fp32_contents.extend([1, 2])
    else:
        message.raw_input_contents.append(np.array([1, 2], np.float32).tobytes())
    return message


@row(84)
@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_requests_of_the_open_inference_protocol_are_logged_as_predict(
    watch: Watch, tmp_path: Path, *, typed: bool, streamed: bool
) -> None:
    watched = watch()
    reload(watched, server_config(tmp_path, 1.0))
    message = infer_request("m:serving_default", typed=typed)
    classes = message.outputs.add(name="y")
    classes.parameters["classification"].int64_param = 1
    path = f"{INFERENCE}/{'ModelStreamInfer' if streamed else 'ModelInfer'}"
    if streamed:
        call: Any = watched.channel.stream_stream(path, None, None)
        list(call(iter([message.SerializeToString()]), timeout=TIMEOUT_S))
    else:
        watched.call(path, message.SerializeToString())
    flush(watched)

    (log,) = logged(tmp_path)
    asked, answered = log.predict_log.request, log.predict_log.response
    for spec in (asked.model_spec, answered.model_spec):
        assert (spec.name, spec.version.value, spec.signature_name) == ("m", 1, "serving_default")
    assert list(asked.output_filter) == ["y"]
    assert tensors.to_array(asked.inputs["x"]).tolist() == [[1, 2]]
    assert tensors.to_array(answered.outputs["y"]).tolist() == [[2, 4]]  # not its classes
    # The same request again, as a warm-up sends it.
    again = PredictResponse.FromString(watched.call(PREDICT, asked.SerializeToString()))
    assert tensors.to_array(again.outputs["y"]).tolist() == [[2, 4]]
