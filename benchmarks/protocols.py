"""`benchmarks/protocols.py`: the Open Inference Protocol's cost beside TensorFlow Serving's API.

CPU of this process for the same rows, in turns: Predict and ModelInfer; JSON and binary tensors
over HTTP. The model costs next to nothing, so this is the server's own work. The transports
are left out; they cost the same for both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.serving_pb import PredictRequest
from ladle.server import Config, Server
from ladle.server.core.errors import ServingError
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.transport.http.exchange import Exchange, Headers

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_FLOAT = dtypes.from_numpy(np.dtype(np.float32))
_SIGNATURE = Signature(
    "serving_default",
    {"image": TensorSpec(_FLOAT, (-1, 28, 28))},
    {"scores": TensorSpec(_FLOAT, (-1, 10))},
)
_URL = "/v2/models/bench/infer"


class _Pixels:
    """A model that costs next to nothing."""

    def __init__(self) -> None:
        self.signatures = {"serving_default": _SIGNATURE}
        self.signature_defs = {"serving_default": b""}
        self.card_json = None
        self.default_signature = ""

    def run(
        self, signature: Signature, inputs: Any, outputs: Any, deadline: Any = None
    ) -> dict[str, NDArray[Any]]:
        return {"scores": np.ascontiguousarray(inputs["image"][:, 0, :10])}

    def close(self) -> None:
        pass


class _Call:
    """A call whose answer goes nowhere."""

    local = True
    deadline = None
    shared_observation = None

    def __init__(self, request: bytes, answered: Callable[[], None]) -> None:
        self.request = request
        self._answered = answered

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        pass

    def respond(self, response: bytes) -> None:
        self._answered()

    def fail(self, error: ServingError) -> None:
        raise AssertionError(error.message)

    def discard_request(self) -> None:
        pass


def predict_request(images: NDArray[Any]) -> bytes:
    """Return the rows as a PredictRequest."""
    request = PredictRequest()
    request.model_spec.name = "bench"
    request.inputs["image"].CopyFrom(tensors.to_proto(images))
    return request.SerializeToString()


def infer_request(images: NDArray[Any]) -> bytes:
    """Return the rows as a ModelInferRequest, as tritonclient makes it."""
    request = ModelInferRequest(model_name="bench")
    request.inputs.add(name="image", datatype="FP32", shape=images.shape)
    request.raw_input_contents.append(images.tobytes())
    return request.SerializeToString()


def methods_cost(server: Server, path: str, request: bytes, count: int, in_flight: int) -> float:
    """Return the CPU of one request in µs, so many at a time."""
    method: Any = server.methods[path]
    rounds = max(1, count // in_flight)
    done = threading.Semaphore(0)
    started = time.process_time()
    for _ in range(rounds):
        for _ in range(in_flight):
            method.handle(_Call(request, done.release))
        for _ in range(in_flight):
            done.acquire()
    return (time.process_time() - started) / (rounds * in_flight) * 1e6


def http_cost(server: Server, headers: Mapping[str, str], body: bytes, count: int) -> float:
    """Return the CPU of one request over HTTP in µs, without the reading and writing of HTTP."""
    return asyncio.run(_http_cost(server, Headers([*headers.items()]), body, count))


class _Answered:
    """Where answers go over HTTP: nowhere."""

    def wants_more(self, exchange: Exchange) -> None:
        pass

    def answer(self, exchange: Exchange, status: int, headers: Any, body: bytes) -> None:
        assert status == 200, body


async def _http_cost(server: Server, headers: Headers, body: bytes, count: int) -> float:
    assert server.http is not None
    started = time.process_time()
    for _ in range(count):
        exchange = Exchange("POST", _URL, headers, _Answered(), local=True)
        exchange.feed(body)
        exchange.end_body()
        await server.http.app(exchange)
    return (time.process_time() - started) / count * 1e6


def in_turns(cost: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure each in turns, so that what else the machine does meets all of them."""
    costs: dict[str, list[float]] = {name: [] for name in cost}
    for measure in cost.values():
        measure()  # warm
    for _ in range(rounds):
        for name, measure in cost.items():
            costs[name].append(measure())
    return costs


def told(rows: int, costs: dict[str, list[float]]) -> None:
    """Print the medians, and the median of the ratios of neighbours."""
    (first, a), (second, b) = costs.items()
    ratio = statistics.median(two / one for one, two in zip(a, b, strict=True))
    print(
        f"{rows:4} rows  {first:8}{statistics.median(a):9.1f} µs  {second:11}"
        f"{statistics.median(b):9.1f} µs  ratio {ratio:.3f}"
    )


def main() -> None:
    """Measure, and print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "1").mkdir()
        batching = Path(folder, "batching")
        batching.write_text("max_batch_size { value: 256 }")  # vouched: no batch is compared
        config = Config(
            port=None,
            rest_api_port=None,
            model_name="bench",
            model_base_path=folder,
            enable_batching=True,
            batching_parameters_file=str(batching),
        )
        server = Server(config, load=lambda _id, _path: _Pixels())
        server.start()
        try:
            for rows, count, in_flight in ((1, 4096, 32), (256, 128, 1)):
                told(rows, in_turns(_over_grpc(server, rows, count, in_flight), rounds))
            for rows, count in ((1, 200), (16, 50), (256, 5)):
                told(rows, in_turns(_over_http(server, rows, count), rounds))
        finally:
            server.stop(lame_duck=False)


def _images(rows: int) -> NDArray[Any]:
    return np.random.default_rng(0).random((rows, 28, 28), np.float32)


def _over_grpc(
    server: Server, rows: int, count: int, in_flight: int
) -> dict[str, Callable[[], float]]:
    images = _images(rows)
    requests = {_PREDICT: predict_request(images), _INFER: infer_request(images)}
    return {
        path.rpartition("/")[2]: partial(methods_cost, server, path, request, count, in_flight)
        for path, request in requests.items()
    }


def _over_http(server: Server, rows: int, count: int) -> dict[str, Callable[[], float]]:
    images = _images(rows)
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "FP32"}
    text = json.dumps({"inputs": [{**tensor, "data": images.ravel().tolist()}]}).encode()
    size = {"binary_data_size": images.nbytes}
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": size}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    length = {"inference-header-content-length": str(len(head))}
    return {
        "JSON": partial(http_cost, server, {}, text, count),
        "binary": partial(http_cost, server, length, head + images.tobytes(), count),
    }


if __name__ == "__main__":
    main()
