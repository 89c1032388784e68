"""What perf_analyzer asks for and reads, call by call: its wheel runs on few systems."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from server.open_inference.harness import SERVICE, Served, request, rest_form, row

from ladle.protos.inference_pb import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from ladle.server.rest.open_inference.messages import as_json

BATCH = 8  # as `-b 8`
DURATIONS = (
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
    *("cache_hit", "cache_miss"),
)

Ask = Callable[[str], Any]


def over_http(served: Served, model: str) -> Ask:
    paths = {
        "metadata": f"/v2/models/{model}",
        "config": f"/v2/models/{model}/config",
        "server": "/v2",
        "statistics": f"/v2/models/{model}/stats",
    }

    def ask(what: str) -> Any:
        response = served.http.get(paths[what])
        assert response.status_code == 200  # nothing else is a success to it
        return response.json()

    return ask


def over_grpc(served: Served, model: str) -> Ask:
    methods: dict[str, tuple[str, Any, Any]] = {
        "metadata": ("ModelMetadata", ModelMetadataRequest(name=model), ModelMetadataResponse),
        "config": ("ModelConfig", ModelConfigRequest(name=model), ModelConfigResponse),
        "server": ("ServerMetadata", ServerMetadataRequest(), ServerMetadataResponse),
        "statistics": (
            "ModelStatistics",
            ModelStatisticsRequest(name=model),
            ModelStatisticsResponse,
        ),
    }

    def ask(what: str) -> Any:
        answer = as_json(served.ask(*methods[what]))
        return answer["config"] if what == "config" else answer

    return ask


def inference(at: int) -> ModelInferRequest:
    """A request as its client makes them: an id, named outputs, and Triton's parameter."""
    a = np.full((BATCH, 16), at, np.int32)
    message = request("simple", INPUT0=a, INPUT1=a)
    message.id = str(at)
    message.parameters["triton_enable_empty_final_response"].bool_param = False
    for name in ("OUTPUT0", "OUTPUT1"):
        message.outputs.add(name=name)
    return message


@row(88)
@pytest.mark.parametrize("transport", [over_http, over_grpc])
def test_the_model_is_understood(served: Served, transport: Callable[..., Ask]) -> None:
    ask = transport(served, "simple")
    metadata, config = ask("metadata"), ask("config")
    assert config["max_batch_size"] >= BATCH
    assert "decoupled" in config["model_transaction_policy"]
    assert "sequence_batching" not in config
    assert "dynamic_batching" in config
    assert config["platform"] != "ensemble"
    described = {tensor["name"]: tensor["shape"] for tensor in metadata["inputs"]}
    for tensor in config["input"]:
        assert tensor["optional"] is False
        assert described[tensor["name"]][1:] == tensor["dims"]
    assert {tensor["name"] for tensor in config["output"]} == {
        tensor["name"] for tensor in metadata["outputs"]
    }
    assert "statistics" in ask("server")["extensions"]
    (statistics,) = ask("statistics")["model_stats"]
    assert statistics["version"] == "1"
    assert set(DURATIONS) == set(statistics["inference_stats"])


def measure(served: Served, ask: Ask, requests: int, send: Callable[[], None]) -> None:
    """Hold the statistics of a window to what was sent in it."""
    (before,) = ask("statistics")["model_stats"]
    send()
    (after,) = ask("statistics")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == BATCH * requests
    assert 0 < after["execution_count"] - before["execution_count"] <= requests
    counts = {
        name: after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"]
        for name in DURATIONS
    }
    # It throws where the three differ.
    assert counts["compute_input"] == counts["compute_infer"] == counts["compute_output"]
    assert counts["success"] == counts["queue"] == counts["compute_infer"] == requests
    assert counts["fail"] == counts["cache_hit"] == counts["cache_miss"] == 0


@row(88)
@pytest.mark.parametrize("tensors", ["binary", "json"])
def test_a_window_over_http(served: Served, tensors: str) -> None:
    def send() -> None:
        for at in range(3):
            path, text, raw = rest_form(inference(at))
            body = json.loads(text)
            for output in body["outputs"]:
                output["parameters"] = {"binary_data": tensors == "binary"}
            if tensors == "json":  # as --input-tensor-format json, with the header all the same
                for given in body["inputs"]:
                    given["parameters"] = {}
                    given["data"] = [at] * (16 * BATCH)
                raw = b""
            text = json.dumps(body).encode()
            response = served.post(path, text + raw, inference_header_content_length=str(len(text)))
            assert response.status_code == 200
            length = int(response.headers.get("inference-header-content-length", 0))
            told = json.loads(response.content[: length or None])
            assert told["id"] == str(at)
            assert [output["name"] for output in told["outputs"]] == ["OUTPUT0", "OUTPUT1"]
            if tensors == "binary":
                sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
                assert length + sum(sizes) == len(response.content)
            else:
                assert all("parameters" not in output for output in told["outputs"])

    measure(served, over_http(served, "simple"), 3, send)


@row(88)
def test_a_window_over_grpc(served: Served) -> None:
    def send() -> None:
        for at in range(3):
            assert served.infer(inference(at)).id == str(at)

    measure(served, over_grpc(served, "simple"), 3, send)


@row(88)
def test_a_window_over_a_stream(served: Served) -> None:
    def send() -> None:
        call: Any = served.channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        messages = [inference(at).SerializeToString() for at in range(3)]
        answers = [ModelStreamInferResponse.FromString(answer) for answer in call(iter(messages))]
        # It matches times to answers first in, first out.
        assert [answer.infer_response.id for answer in answers] == ["0", "1", "2"]

    measure(served, over_grpc(served, "simple"), 3, send)
