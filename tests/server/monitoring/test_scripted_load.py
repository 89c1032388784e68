"""The metrics of a load equal what was sent, to the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S
from server.monitoring.conftest import (
    PREDICT,
    Samples,
    Watch,
    Watched,
    predict_request,
    wait_until,
)

from ladle.protos.ladle_pb import PredictStreamRequest
from ladle.protos.serving_pb import GetModelStatusRequest, PredictRequest
from ladle.server import StartupError

STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
CHUNKS = "/ladle.v1.StreamingPrediction/PredictInChunks"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
COUNT = ":tensorflow:serving:request_count"
NAN = float("nan")
ROWS = {"instances": [[1.0, 2.0]]}


def refused(watched: Watched, path: str, message: bytes) -> None:
    with pytest.raises(grpc.RpcError):
        watched.call(path, message)


def stream(watched: Watched, requests: list[bytes]) -> list[Any]:
    call: Any = watched.channel.stream_stream(STREAM, None, None)
    messages = [PredictStreamRequest(request=PredictRequest.FromString(r)) for r in requests]
    return list(call((m.SerializeToString() for m in messages), timeout=TIMEOUT_S))


def test_metrics_equal_what_was_sent_over_grpc_rest_and_streams(
    watch: Watch, tmp_path: Path
) -> None:
    batching = tmp_path / "batching.txt"
    batching.write_text(
        "max_batch_size { value: 4 } max_enqueued_batches { value: 4 } "
        "num_batch_threads { value: 1 }"
    )
    watched = watch(batching_parameters_file=str(batching), max_request_bytes=1 << 16)

    # gRPC
    sent = predict_request(rows=2)
    answers = [watched.call(PREDICT, sent) for _ in range(20)]
    for _ in range(3):
        refused(watched, PREDICT, predict_request(model="nobody"))
    for _ in range(2):
        refused(watched, PREDICT, predict_request(fill=NAN))
    refused(watched, PREDICT, b"\xff\xff\xff")
    refused(watched, PREDICT, bytes(1 << 17))
    refused(watched, PREDICT, predict_request(rows=5))  # more than a batch
    status = GetModelStatusRequest()
    status.model_spec.name = "m"
    watched.call(STATUS, status.SerializeToString())
    # Streams
    assert len(stream(watched, [sent] * 5 + [predict_request(model="nobody")])) == 1 + 6
    chunks: Any = watched.channel.stream_stream(CHUNKS, None, None)
    assert list(chunks(iter([predict_request(rows=3)]), timeout=TIMEOUT_S))
    # REST
    posts = [
        *[("/v1/models/m:predict", '{"instances": [[1, 2]]}')] * 6,
        *[("/v1/models/m:predict", "no JSON")] * 2,
        ("/v1/models/nobody:predict", '{"instances": [[1, 2]]}'),
        ("/v1/models/m:predict", '{"instances": [[NaN, 2]]}'),
        ("/v1/models/m:predict", " " * (1 << 17)),
        ("/v1/nonsense", "{}"),
    ]
    codes = [watched.http.post(path, content=content) for path, content in posts]
    assert [c.status_code for c in codes] == [200] * 6 + [400] * 2 + [404, 500, 413, 400]
    assert watched.http.get("/v1/models/m").status_code == 200
    assert watched.http.get("/v1/models/m/metadata").status_code == 200
    assert watched.http.get("/livez").status_code == 200
    # One runs, sixteen rows wait, and the next finds the queue full.
    watched.model.hold()
    while watched.model.entered.acquire(blocking=False):
        pass
    running = watched.begin()
    watched.model.wait_until_running()
    waiting = [watched.begin(rows=4) for _ in range(4)]
    wait_until(lambda: watched.samples().sum("ladle_queue_rows") == 16)
    held = watched.samples()
    refused(watched, PREDICT, predict_request())
    assert watched.http.post("/v1/models/m:predict", json=ROWS).status_code == 503
    for request in waiting:
        request.cancel()
    wait_until(lambda: watched.samples().sum(COUNT, status="CANCELLED") == 4)
    watched.model.release()
    running.result()

    told = watched.samples()
    assert told.by(COUNT, "model_name", "status") == {
        # Predict, its stream and chunks; REST's predict, status and metadata
        ("m", "OK"): 20 + 5 + 1 + 1 + 6 + 2,
        ("m", "UNKNOWN"): 2 + 1,
        ("m", "INVALID_ARGUMENT"): 1 + 2 + 1,
        ("m", "UNAVAILABLE"): 1 + 1,
        ("m", "CANCELLED"): 4,
        ("", "NOT_FOUND"): 3 + 1 + 1,
        ("", "INVALID_ARGUMENT"): 1 + 1,  # no message; no such URL
    }
    assert told.by("ladle_requests_total", "entrypoint", "method", "code") == {
        ("GRPC", "Predict", "OK"): 21,
        ("GRPC", "Predict", "NOT_FOUND"): 3,
        ("GRPC", "Predict", "UNKNOWN"): 2,
        ("GRPC", "Predict", "INVALID_ARGUMENT"): 2,
        ("GRPC", "Predict", "UNAVAILABLE"): 1,
        ("GRPC", "Predict", "CANCELLED"): 4,
        ("GRPC", "", "RESOURCE_EXHAUSTED"): 1,
        ("GRPC", "GetModelStatus", "OK"): 1,
        ("GRPC", "PredictStream", "OK"): 5,
        ("GRPC", "PredictStream", "NOT_FOUND"): 1,
        ("GRPC", "PredictInChunks", "OK"): 1,
        ("REST", "predict", "OK"): 6,
        ("REST", "predict", "INVALID_ARGUMENT"): 2 + 1,
        ("REST", "predict", "NOT_FOUND"): 1,
        ("REST", "predict", "UNKNOWN"): 1,
        ("REST", "predict", "UNAVAILABLE"): 1,
        ("REST", "", "INVALID_ARGUMENT"): 1,
        ("REST", "status", "OK"): 1,
        ("REST", "metadata", "OK"): 1,
    }
    assert told.by("ladle_rejected_requests_total", "model", "reason") == {
        ("m", "queue_full"): 2,
        ("m", "request_size"): 1,  # over REST, where the URL tells the model
        ("", "request_size"): 1,
    }
    latency = ":tensorflow:serving:request_latency_count"
    assert told.sum(latency, API="Predict", entrypoint="GRPC", model_name="m") == 21
    assert told.sum(latency, API="predict", entrypoint="REST", model_name="m") == 6
    answered = {"model": "m", "version": "1", "signature": "serving_default"}
    assert told.sum("ladle_response_bytes_count", **answered) == 21 + 5 + 1 + 6
    assert told.sum("ladle_encode_seconds_count", **answered) == 21 + 5 + 1 + 6
    # Rows: of all that got into the queue
    rows = 20 * 2 + 2 + 5 * 2 + 3 + 6 + 1 + 1 + 16
    assert told.sum("ladle_request_rows_sum", **answered) == rows
    runs = told.sum("ladle_batch_rows_count", **answered)
    assert told.sum("ladle_batch_rows_sum", **answered) == rows - 16, "those were cancelled"
    assert runs == told.sum(":tensorflow:serving:batching_session:wrapped_run_count")
    assert told.sum("ladle_failed_runs_total", **answered) == 3
    assert told.sum("ladle_compute_seconds_count", **answered) == runs - 3
    assert runs == sum(1 for _ in watched.model.batches)
    # Bytes: 20 like the first, and one of one row.
    one_row = len(predict_request())
    assert (
        told.sum("ladle_request_bytes_sum", model="m", version="1", signature="serving_default")
        >= 20 * len(sent) + one_row
    )
    assert told.sum("ladle_response_bytes_sum", **answered) >= sum(map(len, answers))
    # What was so while it was held up
    assert held.sum("ladle_requests_in_flight", model="m", version="1") == 5
    assert held.sum("ladle_queue_requests", model="m") == 4
    assert held.sum("ladle_batches_running", model="m") == 1
    assert told.sum("ladle_queue_requests") == 0
    # A caller may have its answer a moment before the version is let go of.
    wait_until(lambda: watched.samples().sum("ladle_requests_in_flight") == 0)


def test_a_thousand_requests_are_counted_in_full(watch: Watch) -> None:
    """More than are counted at once: none is lost between two countings."""
    watched = watch()
    call: Any = watched.channel.unary_unary(PREDICT, None, None)
    for _ in range(4):
        for future in [call.future(predict_request(), timeout=TIMEOUT_S) for _ in range(300)]:
            future.result()

    told = watched.samples()
    assert told.sum(COUNT, model_name="m", status="OK") == 1200
    assert told.sum("ladle_request_rows_sum", model="m") == 1200
    assert told.sum("ladle_batch_rows_sum", model="m") == 1200


def test_what_is_loaded_and_what_the_server_is_made_of_are_told(watch: Watch) -> None:
    told = watch().samples()

    assert told.sum("ladle_version_state", model="m", version="1", state="AVAILABLE") == 1
    assert told.sum(":tensorflow:cc:saved_model:load_attempt_count", status="success") == 1
    assert told.sum("ladle_load_seconds_count", model="m", code="OK") == 1
    assert told.sum("ladle_build_info") == 1
    assert told.sum("process_cpu_seconds_total") > 0


def test_metrics_can_be_elsewhere_or_not_at_all(watch: Watch, tmp_path: Path) -> None:
    file = tmp_path / "monitoring.txt"
    file.write_text('prometheus_config { enable: true path: "/somewhere/else" }')
    elsewhere = watch(monitoring_config_file=str(file)).http
    assert elsewhere.get("/somewhere/else").status_code == 200
    assert elsewhere.get("/monitoring/prometheus/metrics").status_code == 404

    file.write_text("prometheus_config { enable: false }")
    nowhere = watch(monitoring_config_file=str(file)).http
    assert nowhere.get("/monitoring/prometheus/metrics").status_code == 404


@pytest.mark.parametrize("path", ["/readyz", "/status.json", "/READYZ"])
def test_metrics_can_not_be_where_something_else_is(
    watch: Watch, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "monitoring.txt"
    file.write_text(f'prometheus_config {{ enable: true path: "{path}" }}')
    with pytest.raises(StartupError, match=f"--monitoring_config_file: .* at {path}"):
        watch(monitoring_config_file=str(file))


def test_names_that_callers_make_up_do_not_become_labels(watch: Watch) -> None:
    watched = watch()
    for n in range(50):
        refused(watched, PREDICT, predict_request(model=f"made up {n}"))

    told = watched.samples()
    assert told.by(COUNT, "model_name", "status") == {("", "NOT_FOUND"): 50}
    assert set(told.by("ladle_requests_total", "model")) == {("",)}


def test_samples_read_what_is_shown() -> None:
    samples = Samples('a{x="1",y="2"} 3\na{x="1",y="3"} 4\n')

    assert samples.sum("a", x="1") == 7
    assert samples.by("a", "y") == {("2",): 3, ("3",): 4}


def test_what_is_not_there_under_v2_is_counted(watch: Watch) -> None:
    watched = watch()
    assert watched.http.get("/v2/nonsense").status_code == 404
    assert watched.http.put("/v2/models/m").status_code == 405
    assert watched.http.get("/v2/health/live").status_code == 200

    told = watched.samples()
    assert told.by("ladle_requests_total", "method", "protocol", "code") == {
        ("unknown", "open_inference", "INVALID_ARGUMENT"): 2
    }
    assert told.sum(COUNT) == 0


def test_callers_without_a_token_are_counted_once_each(watch: Watch, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text('{"token": "0123456789abcdef0123456789abcdef", "name": "all"}\n')
    watched = watch(auth_tokens_file=str(tokens))
    for _ in range(3):
        refused(watched, PREDICT, predict_request())
    for _ in range(2):
        assert watched.http.post("/v1/models/m:predict", json=ROWS).status_code == 401
    assert watched.http.get("/monitoring/prometheus/metrics").status_code == 401
    watched.http.headers["authorization"] = "Bearer 0123456789abcdef0123456789abcdef"
    assert watched.http.post("/v1/models/m:predict", json=ROWS).status_code == 200

    told = watched.samples()
    assert told.by("ladle_requests_total", "entrypoint", "method", "code") == {
        ("GRPC", "Predict", "UNAUTHENTICATED"): 3,
        ("REST", "predict", "UNAUTHENTICATED"): 2,
        ("REST", "predict", "OK"): 1,
    }
    assert told.sum("ladle_rejected_requests_total", reason="unauthenticated") == 5
