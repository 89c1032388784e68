"""What a trial costs: requests/s, CPU and latency of one signature, for each way to run requests.

    python benchmarks/standings.py      some minutes; needs nothing but ladle and TensorFlow

Threads call the queue of one loaded model, in this process, without any transport. All ways take
turns; what is printed are medians of ratios to lone runs without a trial, round by round. All
requests of a turn are alike, so that the signature on trial stays there: equal rows prove nothing.
The way `batched` has proved itself before, by requests that differ, up to batches of so many rows
as there are callers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import model
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.trust import PROOF, Standing
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

CALLERS = (1, 16)
COMPARISONS = 2 * PROOF
OUTPUTS = ("probabilities",)


class Measured(NamedTuple):
    """One turn."""

    per_s: float
    cpu_us: float
    """Of the whole process, for each request; comparisons are in it."""
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, help="turns of each way (default 7)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn (default 2)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "1"))
        ways = served(Path(folder, "1"))
        figures = "requests/s  CPU us  p50 ms  p99 ms"
        print(f"callers  way        {figures}  alone = 1: {figures}")
        for callers in CALLERS:
            turns = [
                {name: turn(way, callers, arguments.seconds) for name, way in ways.items()}
                for _ in range(arguments.runs)
            ]
            for name in ways:
                own = [measured[name] for measured in turns]
                ratios = [
                    [a / b for a, b in zip(measured[name], measured["alone"], strict=True)]
                    for measured in turns
                ]
                absolute = [statistics.median(values) for values in zip(*own, strict=True)]
                relative = [statistics.median(values) for values in zip(*ratios, strict=True)]
                print(f"{callers:7d}  {name:9s}  {row(absolute)}             {row(relative)}")
        for name, way in ways.items():
            print(f"{name}: {way.standings()['serving_default'].standing.value}, ", end="")
            print(f"{way.comparisons} comparisons")


def row(values: Sequence[float]) -> str:
    """Return the figures of one turn below their heads."""
    per_s, *rest = values
    rate = f"{per_s:10.0f}" if per_s > 100 else f"{per_s:10.2f}"
    return "  ".join([rate, *(f"{value:6.2f}" for value in rest)])


def served(folder: Path) -> dict[str, BatchingServable]:
    """Return the model behind one queue for each way in which its requests may run."""

    def queue(options: BatchOptions | None, said_by: str) -> BatchingServable:
        loaded = load_saved_model(ServableId("bench", 1), folder, LoadOptions())
        return BatchingServable(loaded, options, said_by=said_by)

    ways = {
        "alone": queue(None, "the benchmark"),
        "on trial": queue(BatchOptions(), ""),
        "batched": queue(BatchOptions(), ""),
        "vouched": queue(BatchOptions(), "the benchmark"),
    }
    prove(ways["batched"])
    return ways


def prove(way: BatchingServable) -> None:
    """Send requests that differ until batches are used, and have been compared often enough."""
    signature = way.signatures["serving_default"]
    random = np.random.default_rng(0)

    def call(image: NDArray[np.float32]) -> None:
        way.run(signature, {"image": image}, OUTPUTS)

    with ThreadPoolExecutor(max(CALLERS)) as callers:
        while (
            way.standings()[signature.name].standing is Standing.ON_TRIAL
            or way.comparisons < COMPARISONS
        ):
            images = random.random((max(CALLERS), 1, 28, 28), np.float32)
            list(callers.map(call, images))


def turn(way: BatchingServable, callers: int, seconds: float) -> Measured:
    """Return what so many threads get done that call one after the other."""
    signature = way.signatures["serving_default"]
    inputs = {"image": np.zeros((1, 28, 28), np.float32)}
    took: list[float] = []
    ready = threading.Barrier(callers + 1)
    ended = threading.Event()

    def call() -> None:
        own: list[float] = []
        ready.wait()
        while not ended.is_set():
            started = time.perf_counter()
            way.run(signature, inputs, OUTPUTS)
            own.append(time.perf_counter() - started)
        took.extend(own)

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    cpu_s = -time.process_time()
    time.sleep(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    cpu_s += time.process_time()
    took.sort()
    return Measured(
        len(took) / seconds,
        cpu_s / len(took) * 1e6,
        took[len(took) // 2] * 1000,
        took[int(len(took) * 0.99)] * 1000,
    )


if __name__ == "__main__":
    main()
