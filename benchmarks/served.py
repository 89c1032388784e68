"""What requests cost a whole server by each protocol: `benchmarks/served.py`.

CPU of the server's process for the same rows, sockets and transports included, in turns:
Predict and ModelInfer over gRPC; JSON and binary tensors over HTTP. Each ratio is the median of the
ratios of neighbours, so it holds on a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from harness import load, model
from numpy.typing import NDArray
from process import ServerProcess
from protocols import infer_request, predict_request

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_V1 = "/v1/models/bench:predict"
_V2 = "/v2/models/bench/infer"
_TURN_S = 0.5
"""What one turn takes, about."""


@dataclass(frozen=True)
class Way:
    """One way to send the rows."""

    name: str
    method: str
    body: bytes
    headers: Sequence[str] = ()
    is_http: bool = False


def main() -> None:
    """Measure, and print a line for each size and number in flight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each way (default 9)")
    parser.add_argument("--only", default="", help="lines with this text, such as 'HTTP, 1 image'")
    parser.add_argument("--transport", default="native", choices=("grpcio", "native"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        flags = ("--rest_api_port=auto", f"--transport={arguments.transport}")
        with ServerProcess("ladle", str(base_path), *flags) as server:
            for over, ways_of in (("gRPC", over_grpc), ("HTTP", over_http)):
                for rows, in_flight in ((1, 1), (1, 32), (16, 8), (256, 4)):
                    line = f"{over}, {rows} image{'s' * (rows > 1)}, {in_flight} in flight"
                    if arguments.only in line:
                        compare(line, server, ways_of(rows), in_flight, arguments.rounds)


def compare(
    line: str, server: ServerProcess, ways: Sequence[Way], in_flight: int, rounds: int
) -> None:
    """Print what each way costs, and its ratio to the first."""
    counts = [_count(server, way, in_flight) for way in ways]
    costs: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, count, cost in zip(ways, counts, costs, strict=True):
            cost.append(_turn(server, way, count, in_flight)[0])
    told = [
        f"{way.name} {statistics.median(cost):.1f} µs ({_ratio(cost, costs[0]):.3f})"
        for way, cost in zip(ways, costs, strict=True)
    ]
    print(f"{line}: {', '.join(told)}", flush=True)


def over_grpc(rows: int) -> list[Way]:
    """Return both protocols' ways over gRPC."""
    images = _images(rows)
    return [
        Way("Predict", _PREDICT, predict_request(images)),
        Way("ModelInfer", _INFER, infer_request(images)),
    ]


def over_http(rows: int) -> list[Way]:
    """Return the ways over HTTP: the protocol's JSON, its binary tensors, TensorFlow Serving's."""
    images = _images(rows)
    tensor = {"name": "image", "shape": list(images.shape), "datatype": "FP32"}
    text = json.dumps({"inputs": [{**tensor, "data": images.ravel().tolist()}]}).encode()
    head = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": images.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    length = f"inference-header-content-length: {len(head)}"
    v1 = json.dumps({"instances": images.tolist()}).encode()
    return [
        Way("JSON", _V2, text, is_http=True),
        Way("binary", _V2, head + images.tobytes(), [length], is_http=True),
        Way("TensorFlow Serving's JSON", _V1, v1, is_http=True),
    ]


def _count(server: ServerProcess, way: Way, in_flight: int) -> int:
    """Return how many requests a turn has; warms up besides."""
    few = 20 * in_flight
    _turn(server, way, few, in_flight)
    return max(few, round(few * _TURN_S / _turn(server, way, few, in_flight)[1]))


def _turn(server: ServerProcess, way: Way, count: int, in_flight: int) -> tuple[float, float]:
    """Return the CPU of one request in µs, and the seconds that all took."""
    port = server.http_port if way.is_http else server.port
    before = server.used()
    loaded = load.send(
        *(port, way.method, [way.body], count, in_flight), http1=way.is_http, headers=way.headers
    )
    return server.used().since(before).cpu_s / count * 1e6, loaded.seconds


def _ratio(cost: Sequence[float], bound: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(cost, bound, strict=True))


@cache
def _images(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((rows, 28, 28), np.float32)


if __name__ == "__main__":
    main()
