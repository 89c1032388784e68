"""`make bench`: what a request costs, beside what it must cost. Prints one table; see README.md."""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from harness import load, model
from process import ServerProcess

from ladle.protos import tensors
from ladle.protos.ladle_pb import PredictStreamRequest, PredictStreamResponse
from ladle.protos.serving_pb import PredictRequest, PredictResponse

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
_SWAPS = 20


@dataclass(frozen=True)
class Row:
    """One line of the table: a kind of traffic."""

    name: str
    signature: str
    dtype: type[np.generic]
    rows: int
    in_flight: int
    requests: int
    messages: int = 0
    """On each stream; 0 = unary calls."""


ROWS = (
    Row("float32, 1 image", "serving_default", np.float32, 1, 1, 2000),
    Row("float32, 1 image", "serving_default", np.float32, 1, 32, 10000),
    Row("float32, 1 image", "serving_default", np.float32, 1, 128, 20000),
    Row("uint8, 1 image", "serving_uint8", np.uint8, 1, 1, 2000),
    Row("uint8, 1 image", "serving_uint8", np.uint8, 1, 32, 10000),
    Row("uint8, 1 image", "serving_uint8", np.uint8, 1, 128, 20000),
    Row("uint8, 256 images", "serving_uint8", np.uint8, 256, 4, 1000),
    Row("float32, streams", "serving_default", np.float32, 1, 2, 40, messages=400),
)


@dataclass(frozen=True)
class Figures:
    """What one run of a row came to."""

    requests_per_s: float
    server_us: float
    echo_us: float
    model_us: float
    p50_ms: float
    p99_ms: float
    mean_batch: float

    @property
    def efficiency(self) -> float:
        """What a request must cost, of what it does cost."""
        return (self.echo_us + self.model_us) / self.server_us


def main() -> None:
    """Measure, and print the table."""
    arguments = _parser().parse_args()
    print(_machine())
    print(
        f"{'traffic':20}{'in flight':>10}{'req/s':>8}{'rows/s':>9}{'µs/req':>8}{'echo':>7}"
        f"{'model':>7}{'batch':>7}{'p50 ms':>8}{'p99 ms':>8}{'efficiency':>11}{'(min-max)':>12}"
    )
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        transport = arguments.transport
        flag = f"--transport={transport}"
        with ServerProcess("ladle", str(base_path), flag) as server:
            for row in ROWS if arguments.only != "latency" else ():
                if arguments.only and arguments.only not in f"{row.name} {row.in_flight}":
                    continue
                file = Path(folder, "answer")
                runs = measure(row, server, file, arguments.runs, transport)
                print(_line(row, runs), flush=True)
            if arguments.only in ("", "latency"):
                beside_a_slow_model(server)
                through_swaps(server, base_path)


def measure(
    row: Row, server: ServerProcess, answer_file: Path, runs: int, transport: str
) -> list[Figures]:
    """Return the figures of each run; between runs the echo and the model take their turns."""
    request = request_of(row)
    answer = checked_answer(server.port, request, row)
    method, echo_method, messages = PREDICT, "/echo/Unary", [request]
    if row.messages:
        method, echo_method = _STREAM, "/echo/Stream"
        message = PredictStreamRequest(id=1, request=PredictRequest.FromString(request))
        messages = [message.SerializeToString()] * row.messages
        response = PredictStreamResponse(id=1, response=PredictResponse.FromString(answer))
        answer = response.SerializeToString()
    answer_file.write_bytes(answer)
    count = row.requests * len(messages)
    figures = []
    with ServerProcess("echo", str(answer_file), transport) as echo:
        for _ in range(runs + 1):
            before = server.used()
            loaded = load.send(server.port, method, messages, row.requests, row.in_flight)
            used = server.used().since(before)
            model_cpu_s = server.model_cpu_s(row.signature, used.batches)
            before = echo.used()
            load.send(echo.port, echo_method, messages, row.requests, row.in_flight)
            echo_used = echo.used().since(before)
            figures.append(
                Figures(
                    requests_per_s=count / loaded.seconds,
                    server_us=used.cpu_s / count * 1e6,
                    echo_us=echo_used.cpu_s / count * 1e6,
                    model_us=model_cpu_s / count * 1e6,
                    p50_ms=loaded.percentile_ms(50),
                    p99_ms=loaded.percentile_ms(99),
                    mean_batch=count * row.rows / used.batches.total(),
                )
            )
    return figures[1:]  # the first run warms up


def beside_a_slow_model(server: ServerProcess) -> None:
    """Print the latency of a fast model, alone and while a slow one is flooded."""
    fast, slow = request_of(ROWS[0]), request_of(ROWS[0], "slow")
    alone = load.send(server.port, PREDICT, [fast], 4000, 4)
    with load.Sending(server.port, PREDICT, [slow], 256, seconds=30):
        beside = load.send(server.port, PREDICT, [fast], 4000, 4)
    for name, result in (("alone", alone), ("slow model flooded", beside)):
        print(
            f"fast model, 4 in flight, {name}: p50 {result.percentile_ms(50):.2f} ms, "
            f"p99 {result.percentile_ms(99):.2f} ms"
        )


def through_swaps(server: ServerProcess, base_path: Path) -> None:
    """Print the latency while new versions take over, one after the other."""
    request = request_of(ROWS[0])
    load.send(server.port, PREDICT, [request], 2000, 4)
    swapped = 0
    with load.Sending(server.port, PREDICT, [request], 4, seconds=60) as sending:
        for version in range(2, 2 + _SWAPS):
            hidden = base_path / f"{version}.new"
            shutil.copytree(base_path / "1", hidden)
            hidden.rename(base_path / str(version))
            while _version(server.port, request) != version:
                time.sleep(0.05)
            swapped += not sending.done
        result = sending.result()
    print(
        f"through {swapped} version swaps, 4 in flight: p50 {result.percentile_ms(50):.2f} ms, "
        f"p99 {result.percentile_ms(99):.2f} ms, longest {result.percentile_ms(100):.2f} ms, "
        f"{result.requests} requests, none failed"
    )


def _version(port: int, request: bytes) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT, None, None)
        return PredictResponse.FromString(call(request, timeout=60)).model_spec.version.value


def request_of(row: Row, name: str = "bench") -> bytes:
    """Return the serialized PredictRequest of a kind of traffic, for the model of that name."""
    images = np.zeros((row.rows, 28, 28), row.dtype)
    request = PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = row.signature
    request.inputs["image"].CopyFrom(tensors.to_proto(images))
    return request.SerializeToString()


def checked_answer(port: int, request: bytes, row: Row) -> bytes:
    """Return the server's answer, once a real client has found it right."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT, None, None)
        answer = call(request, timeout=60)
    outputs = PredictResponse.FromString(answer).outputs
    probabilities = tensors.to_array(outputs["probabilities"])
    if probabilities.shape != (row.rows, 10) or not np.allclose(probabilities.sum(1), 1):
        raise SystemExit(f"{row.name}: the server's answer is wrong")
    return answer


def _line(row: Row, runs: Sequence[Figures]) -> str:
    def median(name: str) -> float:
        return float(statistics.median(getattr(run, name) for run in runs))

    efficiencies = sorted(run.efficiency for run in runs)
    return (
        f"{row.name:20}{row.in_flight:10}{median('requests_per_s'):8.0f}"
        f"{median('requests_per_s') * row.rows:9.0f}{median('server_us'):8.0f}"
        f"{median('echo_us'):7.0f}{median('model_us'):7.1f}{median('mean_batch'):7.0f}"
        f"{median('p50_ms'):8.2f}{median('p99_ms'):8.2f}"
        f"{statistics.median(efficiencies):11.2f}"
        f"{f'{efficiencies[0]:.2f}-{efficiencies[-1]:.2f}':>12}"
    )


def _machine() -> str:
    return (
        f"{platform.machine()}, Python {platform.python_version()}, grpcio {grpc.__version__}, "
        f"numpy {np.__version__}; server on one core, load on another"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument(
        "--transport",
        default="native",
        choices=("grpcio", "native"),
        help="what serves gRPC, for the echo too (default native)",
    )
    parser.add_argument(
        "--only", default="", help="rows with this text in name and load, or latency"
    )
    return parser


if __name__ == "__main__":
    main()
