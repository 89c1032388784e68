"""What an operator sees: tokens, limits, metrics, logs and reloads, for V2 as for all else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, refusal, until
from server.open_inference.harness import (
    Served,
    X,
    output,
    request,
    rest_form,
    row,
    serving,
)

from ladle.protos import tensors
from ladle.protos.inference_pb import (
    ModelMetadataRequest,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
)
from ladle.protos.serving_pb import PredictRequest

DIGITS = "a-token-for-digits-alone"
IMAGE = np.zeros((1, 8, 8), np.uint8)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a token that is good for the model `digits` alone."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text(
        json.dumps({"token": DIGITS, "kinds": ["predict", "metadata"], "models": ["digits"]})
    )
    with serving(folder / "models", auth_tokens_file=str(folder / "tokens")) as served:
        served.metadata.append(("authorization", f"Bearer {DIGITS}"))
        yield served


@row(79)
def test_a_token_is_good_for_its_model_whatever_the_signature(guarded: Served) -> None:
    bearer = {"authorization": f"Bearer {DIGITS}"}
    for name in ("digits", "digits:other"):
        message = request(name, images=IMAGE)
        assert guarded.infer(message).model_name == name
        path, text, raw = rest_form(message)
        response = guarded.post(
            path, text + raw, inference_header_content_length=str(len(text)), **bearer
        )
        assert response.status_code == 200
    assert guarded.refused(request("half", x=X))[0] == "PERMISSION_DENIED"
    for method, asked in (
        ("RepositoryIndex", RepositoryIndexRequest()),
        ("ModelStatistics", ModelStatisticsRequest()),
        ("ModelMetadata", ModelMetadataRequest(name="half:digits")),
        ("RepositoryModelUnload", RepositoryModelUnloadRequest(model_name="digits")),
    ):
        assert guarded.refusal_of(method, asked)[0] == "PERMISSION_DENIED"
    for verb, path in (
        ("POST", "/v2/models/half/infer"),
        ("POST", "/v2/models/half%3Adigits/infer"),
        ("GET", "/v2/models/half"),
        ("GET", "/v2/models"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/index"),
        ("POST", "/v2/repository/models/digits/unload"),
    ):
        response = guarded.http.request(verb, path, headers=bearer)
        assert response.status_code == 403, path
        assert list(response.json()) == ["error"]


@row(80)
def test_without_a_token_only_probes_are_answered(guarded: Served) -> None:
    live = guarded.ask("ServerLive", ServerLiveRequest(), ServerLiveResponse, metadata=[])
    assert live.live
    assert guarded.refused(request("digits", images=IMAGE), metadata=[])[0] == "UNAUTHENTICATED"
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/half/ready"):
        assert guarded.http.get(path).status_code == 200
    for path in ("/v2", "/v2/models/digits", "/v2/models/digits/stats", "/v2/nothing"):
        response = guarded.http.get(path)
        assert (response.status_code, list(response.json())) == (401, ["error"])


@row(81)
def test_both_protocols_meet_in_one_batch(tmp_path: Path) -> None:
    batching = tmp_path / "batching"
    batching.write_text("max_batch_size { value: 8 } num_batch_threads { value: 1 }")
    settings = {"enable_batching": True, "batching_parameters_file": str(batching)}
    with serving(tmp_path / "models", **settings) as served:
        model = served.models["slow"]
        model.hold()
        try:
            predict = PredictRequest()
            predict.model_spec.name = "slow"
            predict.inputs["x"].CopyFrom(tensors.to_proto(X[:1]))
            calls = [
                ("/tensorflow.serving.PredictionService/Predict", predict),
                ("/inference.GRPCInferenceService/ModelInfer", request("slow", x=X[:1])),
            ]
            answers = []
            for _ in range(2):  # the first request runs alone, and the others wait for it
                for path, message in calls:
                    call: Any = served.channel.unary_unary(path)
                    answers.append(call.future(message.SerializeToString()))
                    if len(answers) == 1:
                        model.wait_until_running()
            until(lambda: served.server.snapshot()["slow"].queue_requests == 3)
        finally:
            model.release()
        assert all(answer.result() for answer in answers)
        assert model.batches == [1, 3]


def logged_ids(file: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in file.read_text().splitlines()]


def test_the_access_log_has_the_id_of_the_request(tmp_path: Path) -> None:
    log = tmp_path / "access"
    with serving(tmp_path / "models", access_log=str(log), log_format="json") as served:
        message = request("half", x=X)
        message.id = "mine-7"
        served.infer(message)
        served.infer(message, metadata=[("x-request-id", "theirs")])
        assert served.infer_over_rest(message).json()["id"] == "mine-7"
        message.id = "no word"
        assert served.infer(message).id == "no word"
        without = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
        made = served.post("/v2/models/half/infer", without).json()["id"]
    ids = logged_ids(log)
    assert ids[:3] == ["mine-7", "theirs", "mine-7"]
    assert ids[3] != "no word"
    assert ids[4] == made


@row(82)
def test_a_full_queue_pushes_back(tmp_path: Path) -> None:
    batching = tmp_path / "batching"
    batching.write_text(
        "max_batch_size { value: 1 } max_enqueued_batches { value: 1 } "
        "num_batch_threads { value: 1 }"
    )
    with serving(tmp_path / "models", batching_parameters_file=str(batching)) as served:
        model = served.models["slow"]
        model.hold()
        try:
            call: Any = served.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            message = request("slow", x=X[:1])
            running = call.future(message.SerializeToString())
            model.wait_until_running()
            waiting = call.future(message.SerializeToString())
            until(lambda: served.server.snapshot()["slow"].queue_requests == 1)
            with pytest.raises(grpc.RpcError) as caught:
                call(message.SerializeToString(), timeout=TIMEOUT_S)
            response = served.infer_over_rest(message)
        finally:
            model.release()
        assert refusal(caught.value)[0] == "UNAVAILABLE"
        trailers: Any = caught.value.trailing_metadata()
        assert int(dict(trailers)["grpc-retry-pushback-ms"]) >= 0
        assert response.status_code == 503
        assert response.json()["error"] == refusal(caught.value)[1]
        for call_under_way in (running, waiting):
            assert call_under_way.result()


@row(82)
def test_a_request_that_is_too_large_is_refused_by_its_size(tmp_path: Path) -> None:
    with serving(tmp_path, max_request_bytes=100_000) as served:
        message = request("half", x=np.zeros(50_000, np.float32))
        assert served.refused(message)[0] == "RESOURCE_EXHAUSTED"
        response = served.infer_over_rest(message)
        assert response.status_code == 413
        assert "max_request_bytes" in response.json()["error"]
        assert served.infer(request("half", x=X)).model_version == "1"


@row(82)
def test_a_large_binary_tensor_passes(served: Served) -> None:
    """The room that its JSON would need is not taken for it."""
    large = request("half", x=np.ones(4 << 20, np.float32))
    binary = served.infer_over_rest(large, parameters={"binary_data_output": True})
    assert binary.status_code == 200
    assert binary.content[-4:] == np.float32(2.5).tobytes()


@row(65)
def test_compressed_calls_are_taken_where_the_operator_allows_them(tmp_path: Path) -> None:
    with serving(tmp_path, grpc_compressed_requests=True) as served:
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            response = served.infer(request("half", x=X), compression=compression)
            assert output(response).tolist() == [2.5, 3, 4.5]


@row(83)
def test_metrics_equal_what_was_asked(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        good, bad = request("half", x=X), request("half", y=X)
        for _ in range(3):
            served.infer(good)
        served.refused(bad)
        for _ in range(2):
            served.infer_over_rest(good)
        served.infer_over_rest(bad)
        served.http.get("/v2/health/live")
        served.http.get("/v2/models/half")
        served.ask("ServerLive", ServerLiveRequest(), ServerLiveResponse)
        text = served.http.get("/monitoring/prometheus/metrics").text
    counted: dict[tuple[str, str, str], int] = {}
    for line in text.splitlines():
        if line.startswith("ladle_requests_total{"):
            labels, value = line.removeprefix("ladle_requests_total{").rsplit("} ", 1)
            of = dict(part.split("=", 1) for part in labels.replace('"', "").split(","))
            assert of["protocol"] == "open_inference"
            key = (of["entrypoint"], of["method"], of["code"])
            counted[key] = counted.get(key, 0) + int(float(value))
    assert counted == {
        ("GRPC", "ModelInfer", "OK"): 3,
        ("GRPC", "ModelInfer", "INVALID_ARGUMENT"): 1,
        ("REST", "infer", "OK"): 2,
        ("REST", "infer", "INVALID_ARGUMENT"): 1,
        ("REST", "modelmetadata", "OK"): 1,
    }
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"} 5' in text


@row(85)
def test_a_reload_under_load_fails_nobody(served: Served) -> None:
    stop = threading.Event()
    failures: list[Exception] = []

    def infer() -> None:
        while not stop.is_set():
            try:
                served.infer(request("two", x=X))
            except Exception as error:
                failures.append(error)

    callers = [threading.Thread(target=infer) for _ in range(2)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        response = served.post("/v2/repository/models/two/load", {})
        assert response.status_code == 200
    stop.set()
    for caller in callers:
        caller.join()
    assert failures == []


@row(27)
def test_only_this_machine_changes_what_is_served_without_a_token(served: Served) -> None:
    class Remote:
        """A call from another machine."""

        local = False
        deadline = None
        shared_observation = None

        def __init__(self, message: bytes) -> None:
            self.request = message
            self.failures: list[Any] = []
            self.fail = self.failures.append

        def metadata(self, _: str) -> None: ...

    asked = RepositoryModelLoadRequest(model_name="half").SerializeToString()
    for service in ("GRPCInferenceService", "model_repository.ModelRepositoryService"):
        call: Any = Remote(asked)
        handler: Any = served.server.methods[f"/inference.{service}/RepositoryModelLoad"]
        handler(call)
        assert [error.code.name for error in call.failures] == ["PERMISSION_DENIED"]
    here = served.ask(
        "RepositoryModelUnload",
        RepositoryModelUnloadRequest(model_name="wide"),
        RepositoryModelUnloadResponse,
    )
    assert here.isUnloaded
