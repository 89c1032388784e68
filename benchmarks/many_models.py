"""What thousands of models cost: a request for one that is not loaded, and a server that is idle.

    python benchmarks/many_models.py

The models load in no time and run in no time, so all that is printed is ladle's own. The bounds are
5 ms beyond the load for a request, and 3 % of a core for 1,000 loaded models.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(_TESTS))

from ladle.protos import tensors  # noqa: E402
from ladle.protos.serving_pb import PredictRequest  # noqa: E402

_TICKS_S = os.sysconf("SC_CLK_TCK")
_PREDICT = "/tensorflow.serving.PredictionService/Predict"


def main() -> None:
    """Print the figures, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=10_000, help="models in the root")
    parser.add_argument("--asked", type=int, default=200, help="models that are asked for")
    parser.add_argument("--loaded", type=int, default=1_000, help="models of the idle server")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which it is idle")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--all", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve(arguments.serve, everything=arguments.all)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models")
        for number in range(arguments.known):
            _publish(root / f"m{number}")
        with _Server(root) as server:
            first, again = server.ask(arguments.asked)
            print(f"{arguments.known} models known, {arguments.asked} asked for one by one, in ms:")
            _print_row("not loaded", first)
            _print_row("loaded", again)
            idle = server.cpu_share(arguments.seconds)
            print(f"idle, {arguments.asked} loaded: {100 * idle:.2f} % of a core")
        for name, everything in (("on demand", False), ("all from the start", True)):
            few = Path(folder, name)
            for number in range(arguments.loaded):
                _publish(few / f"m{number}")
            with _Server(few, everything=everything) as server:
                server.ask(arguments.loaded)
                idle = server.cpu_share(arguments.seconds)
                print(f"idle, {arguments.loaded} loaded {name}: {100 * idle:.2f} % of a core")


def _publish(model: Path) -> None:
    (model / "1").mkdir(parents=True)
    (model / "1" / "saved_model.pb").touch()


def _print_row(name: str, took_s: list[float]) -> None:
    p50, p95, most = np.percentile([1000 * seconds for seconds in took_s], [50, 95, 100])
    print(f"  {name:12} p50 {p50:6.2f}  p95 {p95:6.2f}  max {most:6.2f}")


class _Server:
    """A server in a process of its own."""

    def __init__(self, root: Path, *, everything: bool = False) -> None:
        command = [sys.executable, __file__, "--serve", str(root), *["--all"] * everything]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        self._channel = grpc.insecure_channel(address)
        self._predict: Any = self._channel.unary_unary(_PREDICT)

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait()

    def ask(self, count: int) -> tuple[list[float], list[float]]:
        """Return the seconds of the first and the second request to each model."""
        requests = [_request(f"m{number}") for number in range(count)]
        self._times(requests[:1])  # connects
        return self._times(requests[1:]), self._times(requests[1:])

    def _times(self, requests: list[bytes]) -> list[float]:
        took_s = []
        for request in requests:
            began = time.perf_counter()
            self._predict(request, timeout=60)
            took_s.append(time.perf_counter() - began)
        return took_s

    def cpu_share(self, seconds: float) -> float:
        """Return the part of a core that the process takes while nothing is asked of it."""
        time.sleep(2)  # for what goes on after the last request
        before = self._cpu_s()
        time.sleep(seconds)
        return (self._cpu_s() - before) / seconds

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S


def _request(name: str) -> bytes:
    request = PredictRequest()
    request.model_spec.name = name
    request.inputs["x"].CopyFrom(tensors.to_proto(np.zeros((1, 2), np.float32)))
    return request.SerializeToString()


def _serve(root: Path, *, everything: bool) -> None:
    from fakes import FakeLoader

    from ladle.server import Config, Server

    settings: dict[str, Any] = {"model_root": str(root)}
    if everything:
        models = "".join(
            f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" }}'
            for path in root.iterdir()
        )
        config = root.with_suffix(".config")
        config.write_text(f"model_config_list {{ {models} }}")
        settings = {"model_config_file": str(config)}
    server = Server(Config(port=None, **settings), load=FakeLoader())
    server.start()
    print(server.addresses[0].replace("0.0.0.0", "127.0.0.1"), flush=True)
    time.sleep(3600)


if __name__ == "__main__":
    main()
