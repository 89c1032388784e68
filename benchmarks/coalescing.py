"""What coalescing brings: predictions/s of many threads with single images, with it and without.

The server is a process of its own, pinned to the first core; both ways take turns in one run, and
the table gives the median of the runs. `--tasks` does the same with an AsyncClient's tasks.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ladle.client import AsyncClient, Client

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness.model import publish
from process import SERVER_CPU, ServerProcess

IMAGE = np.arange(784, dtype=np.uint8).reshape(1, 28, 28)
SIGNATURE = "serving_uint8"


class Measured(NamedTuple):
    """One turn."""

    predictions_per_s: float
    requests: int
    """How many requests the predictions took."""
    predictions: int
    client_us: float
    server_us: float


def measure(server: ServerProcess, coalesce_ms: float, callers: int, s: float) -> Measured:
    """Predict from threads for so many seconds."""
    with Client(f"127.0.0.1:{server.port}", coalesce_ms=coalesce_ms) as client:
        counted = count_requests(client)
        client.predict("bench", IMAGE, signature=SIGNATURE)
        ready = threading.Barrier(callers + 1)
        ended = threading.Event()
        done = [0] * callers

        def call(caller: int) -> None:
            ready.wait()
            while not ended.is_set():
                client.predict("bench", IMAGE, signature=SIGNATURE)
                done[caller] += 1

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        ready.wait()
        before = begin(server, counted)
        time.sleep(s)
        measured = end(server, counted, before, sum(done))
        ended.set()
        for thread in threads:
            thread.join()
    return measured


async def measure_tasks(
    server: ServerProcess, coalesce_ms: float, callers: int, s: float
) -> Measured:
    """Predict from tasks for so many seconds."""
    async with AsyncClient(f"127.0.0.1:{server.port}", coalesce_ms=coalesce_ms) as client:
        counted = count_requests(client)
        await client.predict("bench", IMAGE, signature=SIGNATURE)
        done = 0

        async def call() -> None:
            nonlocal done
            while True:
                await client.predict("bench", IMAGE, signature=SIGNATURE)
                done += 1

        tasks = [asyncio.create_task(call()) for _ in range(callers)]
        before = begin(server, counted)
        await asyncio.sleep(s)
        measured = end(server, counted, before, done)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return measured


def count_requests(client: Any) -> list[None]:
    """Have a client put something into the list that is returned for each request it sends."""
    counted: list[None] = []
    send = client._send

    def counting(*args: Any, **named: Any) -> Any:
        counted.append(None)
        return send(*args, **named)

    client._send = counting
    return counted


def begin(server: ServerProcess, counted: list[None]) -> tuple[float, float, float, int]:
    """Return where clocks and counters stand."""
    return time.monotonic(), time.process_time(), server.used().cpu_s, len(counted)


def end(
    server: ServerProcess,
    counted: list[None],
    before: tuple[float, float, float, int],
    predictions: int,
) -> Measured:
    """Return what came of a turn."""
    now, client_s, server_s, requests = begin(server, counted)
    return Measured(
        predictions_per_s=predictions / (now - before[0]),
        requests=requests - before[3],
        predictions=predictions,
        client_us=1e6 * (client_s - before[1]) / max(predictions, 1),
        server_us=1e6 * (server_s - before[2]) / max(predictions, 1),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--coalesce-ms", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--tasks", action="store_true", help="tasks of an AsyncClient, not threads")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - {SERVER_CPU}
        os.sched_setaffinity(0, others or {SERVER_CPU})
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder, "1"))
        with ServerProcess("ladle", folder) as server:
            turns = asyncio.run(take_turns(server, arguments))
    print("coalesce_ms  predictions/s  predictions a request  client us  server us")
    for way, coalesce_ms in enumerate((0.0, arguments.coalesce_ms)):
        of_way = [turn[way] for turn in turns]
        print(
            f"{coalesce_ms:11g}  {median([m.predictions_per_s for m in of_way]):13.0f}  "
            f"{median([m.predictions / max(m.requests, 1) for m in of_way]):21.1f}  "
            f"{median([m.client_us for m in of_way]):9.0f}  "
            f"{median([m.server_us for m in of_way]):9.0f}"
        )
    ratios = [with_it.predictions_per_s / plain.predictions_per_s for plain, with_it in turns]
    print(f"ratio: {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


async def take_turns(
    server: ServerProcess, arguments: argparse.Namespace
) -> list[tuple[Measured, Measured]]:
    """Measure both ways again and again, in one event loop."""

    async def one(coalesce_ms: float) -> Measured:
        how = server, coalesce_ms, arguments.callers, arguments.seconds
        return await measure_tasks(*how) if arguments.tasks else measure(*how)

    return [(await one(0.0), await one(arguments.coalesce_ms)) for _ in range(arguments.runs)]


def median(values: list[float]) -> float:
    """Return the median."""
    return statistics.median(values)


if __name__ == "__main__":
    main()
