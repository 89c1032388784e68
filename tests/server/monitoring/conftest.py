from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable
from prometheus_client.parser import text_string_to_metric_families

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest
from ladle.server import Config, Server
from ladle.server.core.servable_id import ServableId

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass
class Watched:
    """A server of the model `m`, version 1, over gRPC and REST: y = 2 x for rows of two floats."""

    server: Server
    model: FakeServable
    channel: grpc.Channel
    http: httpx.Client

    def call(self, path: str, message: bytes) -> bytes:
        call: Any = self.channel.unary_unary(path, None, None)
        return bytes(call(message, timeout=TIMEOUT_S))

    def begin(self, rows: int = 1) -> Any:
        call: Any = self.channel.unary_unary(PREDICT, None, None)
        return call.future(predict_request(rows), timeout=TIMEOUT_S)

    def samples(self) -> Samples:
        response = self.http.get("/monitoring/prometheus/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return Samples(response.text)


class Samples:
    """What Prometheus would read."""

    def __init__(self, text: str) -> None:
        names = {re.split(r"[{ ]", line)[0] for line in text.splitlines()}
        self.values = {
            (
                # The parser gives each counter the ending that ours have, and upstream's have not.
                sample.name if sample.name in names else sample.name.removesuffix("_total"),
                frozenset(sample.labels.items()),
            ): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def sum(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels."""
        wanted = labels.items()
        return sum(v for (n, given), v in self.values.items() if n == name and wanted <= given)

    def by(self, name: str, *labels: str) -> Mapping[tuple[str, ...], float]:
        """Return the samples of a name by these labels, added up over others."""
        found: dict[tuple[str, ...], float] = {}
        for (n, given), value in self.values.items():
            if n == name:
                key = tuple(dict(given)[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found


def predict_request(rows: int = 1, model: str = "m", fill: float = 1.0) -> bytes:
    message = PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tensors.to_proto(np.full((rows, 2), fill, np.float32)))
    return message.SerializeToString()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads bring about."""
    pause = threading.Event()
    for _ in range(int(TIMEOUT_S / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come about")


Watch = Callable[..., Watched]


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Starts servers; options are fields of Config."""
    started: list[Watched] = []
    (tmp_path / "m" / "1").mkdir(parents=True)

    def watch(**options: Any) -> Watched:
        model = FakeServable()

        def load(_id: ServableId, _path: Path) -> FakeServable:
            return model

        defaults = {"model_name": "m", "model_base_path": str(tmp_path / "m")}
        if "model_config_file" in options:
            defaults = {}
        config = Config(
            port=None,
            rest_api_port=None,
            file_system_poll_wait_seconds=0.01,
            drain_grace_seconds=0,
            **{**defaults, **options},
        )
        server = Server(config, load=load)
        server.start()
        grpc_port, http_port = (a.rpartition(":")[2] for a in server.addresses)
        watched = Watched(
            server,
            model,
            grpc.insecure_channel(f"127.0.0.1:{grpc_port}"),
            httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=TIMEOUT_S),
        )
        started.append(watched)
        return watched

    yield watch
    for watched in started:
        watched.model.release()
        watched.channel.close()
        watched.http.close()
        watched.server.stop(lame_duck=False)
