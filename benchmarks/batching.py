"""Measure what batching does to throughput and latency, and draw the pictures of docs/batching.md.

    python benchmarks/batching.py             measure, and draw (some minutes; needs h2load)
    python benchmarks/batching.py --draw      draw what was measured last

Three servers that differ in their batching alone take turns on one core. What is drawn are medians
of ratios, taken round by round, so that what else the machine does in a round counts for all three.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from harness import load, model
from harness.charts import Chart
from process import ServerProcess

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
MEASURED = IMAGES / "batching.json"
IN_FLIGHT = (1, 4, 16, 64, 128)
OFF, GREEDY, TIMER = "off", "greedy (ladle's default)", "timer of 5 ms"
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_TIMER = "batch_timeout_micros { value: 5000 } max_batch_size { value: 64 }"

Figures = dict[str, dict[str, dict[str, list[float]]]]
"""By how requests are batched, by how many are in flight, of each round: server_us, the CPU of a
request; p50_ms; and rows, the mean of a batch."""


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="draw what was measured last")
    parser.add_argument("--runs", type=int, default=5, help="turns of each server (default 5)")
    arguments = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if not arguments.draw:
        MEASURED.write_text(json.dumps(measure(arguments.runs)) + "\n")
    for name, chart in charts(json.loads(MEASURED.read_text())).items():
        (IMAGES / f"{name}.svg").write_text(chart.svg())


def charts(figures: Figures) -> dict[str, Chart]:
    """Return the pictures, by the name of the file that each belongs in."""

    def ratios(name: str, field: str) -> list[tuple[float, float]]:
        own, off = figures[name], figures[OFF]
        return [
            (n, _median(a / b for a, b in zip(own[str(n)][field], off[str(n)][field], strict=True)))
            for n in IN_FLIGHT
        ]

    names = (OFF, GREEDY, TIMER)
    return {
        "batching-cost": Chart(
            "CPU that a request takes, model and all",
            "requests in flight",
            "without batching = 1",
            {name: ratios(name, "server_us") for name in names},
        ),
        "batching-latency": Chart(
            "Median latency",
            "requests in flight",
            "without batching = 1",
            {name: ratios(name, "p50_ms") for name in names},
        ),
        "batching-rows": Chart(
            "Rows that run together",
            "requests in flight",
            "rows in a batch, mean",
            {
                name: [(n, _median(figures[name][str(n)]["rows"])) for n in IN_FLIGHT]
                for name in names
            },
        ),
    }


def measure(runs: int) -> Figures:
    """Return what was seen in so many rounds, after one to warm up."""
    request = model.one_image()
    seen: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as servers:
        model.publish(Path(folder, "model", "1"))
        parameters = Path(folder, "batching.config")
        parameters.write_text(_TIMER)
        started = {
            name: servers.enter_context(ServerProcess("ladle", f"{folder}/model", *flags))
            for name, flags in (
                (OFF, ["--enable_batching=false"]),
                (GREEDY, []),  # the model's card vouches for it
                (TIMER, [f"--batching_parameters_file={parameters}"]),
            )
        }
        for in_flight in IN_FLIGHT:
            for run in range(runs + 1):
                for name, server in started.items():
                    measured = _once(server, request, in_flight)
                    if run:
                        seen.setdefault((name, in_flight), []).append(measured)
    figures: Figures = {}
    for (name, in_flight), measurements in seen.items():
        figures.setdefault(name, {})[str(in_flight)] = {
            field: [round(m[field], 3) for m in measurements] for field in measurements[0]
        }
    return figures


def _once(server: ServerProcess, request: bytes, in_flight: int) -> dict[str, float]:
    requests = 200 * in_flight if in_flight < 16 else 4000
    before = server.used()
    loaded = load.send(server.port, _PREDICT, [request], requests, in_flight)
    used = server.used().since(before)
    return {
        "server_us": used.cpu_s / requests * 1e6,
        "p50_ms": loaded.percentile_ms(50),
        "rows": requests / used.batches.total(),
    }


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


if __name__ == "__main__":
    main()
