"""`benchmarks/observing.py`: what metrics cost a request, beside what the whole request costs.

Both in one run: the server's CPU for a request at 1, 32 and 128 in flight, and in this process the
CPU of noting a request and its batch, in the sizes that formed, and of counting what was noted.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import load, model
from process import ServerProcess

from ladle.server.call import Call
from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Fanout, Observer, Run, Unobserved
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.metrics import Metrics
from ladle.server.rpc.middleware import ObservedCall

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_ID = ServableId("bench", 1)
_RUNS = 5


def main() -> None:
    """Measure, and print a line for each load."""
    request = model.one_image()
    print(
        f"{'in flight':>9}{'µs/req':>9}{'batch':>7}{'noting µs':>11}{'metrics µs':>12}{'part':>7}"
    )
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        with ServerProcess("ladle", str(base_path)) as server:
            load.send(server.port, _PREDICT, [request], 2000, 32)
            for in_flight, requests in ((1, 2000), (32, 8000), (128, 16000)):
                server_us, parts = [], []
                noting = counting = batch = 0.0
                for _ in range(_RUNS):
                    before = server.used()
                    load.send(server.port, _PREDICT, [request], requests, in_flight)
                    used = server.used().since(before)
                    server_us.append(used.cpu_s / requests * 1e6)
                    batch = requests / used.batches.total()
                    noting = _cost_us(Unobserved(), round(batch), request)
                    metrics = Metrics()
                    counting = _cost_us(Fanout([metrics]), round(batch), request)
                    parts.append(counting / server_us[-1])
                print(
                    f"{in_flight:9}{statistics.median(server_us):9.0f}{batch:7.0f}{noting:11.2f}"
                    f"{counting:12.2f}{statistics.median(parts):7.1%}"
                )


def _cost_us(observer: Observer, batch: int, request: bytes) -> float:
    """Return the CPU of noting and telling of one request, in batches of this size: the least."""
    call = _Call(request)
    rounds = max(1, 20_000 // batch)
    costs = []
    for _ in range(3):
        started = time.process_time()
        for _ in range(rounds):
            _one_batch(observer, batch, call)
        costs.append((time.process_time() - started) / (rounds * batch) * 1e6)
    return min(costs)


def _one_batch(observer: Observer, batch: int, call: Call) -> None:
    calls = [ObservedCall(call, "Predict", observer) for _ in range(batch)]
    for observed in calls:
        seen = observed.observation
        seen.model = "bench"
        seen.served_by(_ID)
        seen.signatures = ("serving_default",)
        seen.rows, seen.queued = 1, time.monotonic()
    run = Run(_ID, ("serving_default",), [c.observation for c in calls], batch, 0, time.monotonic())
    run.assembled = time.monotonic()
    run.computed = time.monotonic()
    run.failed = False
    run.end(time.monotonic(), observer)
    for observed in calls:
        observed.observation.encoding = time.monotonic()
        observed.respond(b"answer")


class _Call:
    """A call that goes nowhere."""

    local = True
    deadline = None
    shared_observation = None

    def __init__(self, request: bytes) -> None:
        self.request = request

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        pass

    def respond(self, response: bytes) -> None:
        pass

    def fail(self, error: ServingError) -> None:
        pass

    def discard_request(self) -> None:
        pass


if __name__ == "__main__":
    main()
