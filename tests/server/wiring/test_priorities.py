"""A caller says how urgent a request is, over gRPC and over HTTP; its token may say otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal

from ladle.client import Client
from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest
from ladle.server import Config, Server
from ladle.server.core.batching.plan import Priority
from ladle.server.core.observation import Observation, Unobserved

BATCHES, ALL = "the-token-of-batches", "the-token-of-others"
ROW = {"instances": [[1.0, 2.0]]}


class Noted(Unobserved):
    """The priorities of the requests that have ended."""

    def __init__(self) -> None:
        self.priorities: list[Priority] = []

    def request_ended(self, request: Observation) -> None:
        self.priorities.append(request.priority)

    def taken(self) -> Priority:
        """Return that of the only request since the last time."""
        (priority,), self.priorities = self.priorities, []
        return priority


class Harness:
    """A server on one model."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        (folder / "m" / "1").mkdir(parents=True)
        self.noted = Noted()
        config = Config(
            port=None,
            rest_api_port=None,
            model_name="m",
            model_base_path=str(folder / "m"),
            drain_grace_seconds=0,
            **settings,
        )
        self.server = Server(config, load=FakeLoader(), observer=self.noted)
        self.server.start()
        self.address = self.server.addresses[0].replace("0.0.0.0", "127.0.0.1")
        self.http = self.server.addresses[-1]

    def ask(self, **metadata: str) -> Priority:
        """Ask over gRPC, and return what the request counted as."""
        request = PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))
        pairs = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        with grpc.insecure_channel(self.address) as channel:
            call: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            call(request.SerializeToString(), metadata=pairs, timeout=TIMEOUT_S)
        return self.noted.taken()

    def post(self, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.http}/v1/models/m:predict"
        return httpx.post(url, json=ROW, headers=named, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    harness = Harness(tmp_path_factory.mktemp("priorities"))
    yield harness
    harness.server.stop(lame_duck=False)


def test_over_grpc(harness: Harness) -> None:
    assert harness.ask() is Priority.NORMAL
    assert harness.ask(ladle_priority="low") is Priority.LOW
    assert harness.ask(ladle_priority="HIGH") is Priority.HIGH
    with pytest.raises(grpc.RpcError) as error:
        harness.ask(ladle_priority="urgent")
    assert refusal(error.value) == (
        "INVALID_ARGUMENT",
        "ladle-priority: expected high, normal or low, got 'urgent'",
    )
    assert harness.noted.taken() is Priority.NORMAL
    shown = harness.server.exposition().decode()
    assert 'ladle_priority_requests_total{priority="low",outcome="answered"} 1' in shown
    assert 'ladle_priority_queue_seconds_count{priority="high"} 1' in shown


def test_over_http(harness: Harness) -> None:
    assert harness.post(ladle_priority="low").json() == {"predictions": [[2.0, 4.0]]}
    assert harness.noted.taken() is Priority.LOW
    refused = harness.post(ladle_priority="urgent")
    assert refused.status_code == 400
    assert "expected high, normal or low" in refused.json()["error"]
    harness.noted.priorities.clear()


def test_a_token_sets_the_highest(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    lines = ({"token": BATCHES, "priority": "low"}, {"token": ALL})
    tokens.write_text("".join(json.dumps(line) + "\n" for line in lines))
    harness = Harness(tmp_path, auth_tokens_file=str(tokens))
    try:
        of_batches, of_all = f"Bearer {BATCHES}", f"Bearer {ALL}"
        assert harness.ask(authorization=of_batches) is Priority.LOW
        assert harness.ask(authorization=of_batches, ladle_priority="high") is Priority.LOW
        assert harness.ask(authorization=of_all, ladle_priority="high") is Priority.HIGH
        assert harness.post(authorization=of_batches).status_code == 200
        assert harness.noted.taken() is Priority.LOW
    finally:
        harness.server.stop(lame_duck=False)


def test_the_client_refuses_another_word(harness: Harness) -> None:
    with (
        Client(harness.address) as client,
        pytest.raises(ValueError, match="expected high, normal"),
    ):
        client.predict("m", {"x": [[1.0, 2.0]]}, metadata={"ladle-priority": "urgent"})
