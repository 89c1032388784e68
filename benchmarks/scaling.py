"""How a server scales over cores, with the load on the same machine: `benchmarks/scaling.py`.

For 1, 2, 4, ... cores it prints, over each transport, requests a second, the CPU that a request
costs, and what of it is under Python's lock: the CPU of the threads that run Python, without the
model's own, which lets go of the lock. One thread holds it at a time: "at most" is how many
requests have room in a second of it, whatever the cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from bench import PREDICT, ROWS, request_of
from harness import load, model
from harness.workers import Workers
from process import ServerProcess

_ROW = ROWS[0]
_FOR_EACH_CORE = 128
"""Requests in flight."""


def main() -> None:
    """Measure, and print the table."""
    arguments = _parser().parse_args()
    print(f"{_ROW.name}, {_FOR_EACH_CORE} in flight for each core; load on all cores")
    print(
        f"{'transport':10}{'cores':>6}{'req/s':>9}{'cpu µs':>8}{'lock µs':>9}{'lock busy':>11}"
        f"{'at most req/s':>15}{'p50 ms':>8}{'p99 ms':>8}"
    )
    available = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        base_path = Path(folder, "model")
        model.publish(base_path / "1")
        for transport in arguments.transports.split(","):
            for count in _counts(len(available)):
                cpus = available[:count]
                flags = (str(base_path), f"--transport={transport}")
                with ServerProcess("ladle", *flags, cpus=cpus) as server:
                    _measure(server, transport, count, len(available), arguments)
        print(f"\n{'transport':10}{'workers':>8}{'req/s':>9}{'cpu µs':>8}{'own MB':>8}", end="")
        print(f"{'p50 ms':>8}{'p99 ms':>8}")
        for transport in arguments.transports.split(","):
            for count in map(int, arguments.workers.split(",")):
                with Workers(base_path, transport, count) as workers:
                    _measure_workers(workers, f"{transport:10}{count:8}", arguments, len(available))


def _counts(most: int) -> list[int]:
    """Return 1, 2, 4, ... and the most."""
    counts = []
    count = 1
    while count < most:
        counts.append(count)
        count *= 2
    return [*counts, most]


def _measure(
    server: ServerProcess, transport: str, cores: int, threads: int, arguments: argparse.Namespace
) -> None:
    request = request_of(_ROW)
    in_flight = _FOR_EACH_CORE * cores
    runs = []
    for _ in range(arguments.runs + 1):
        before = server.used()
        loaded = load.send(
            server.port, PREDICT, [request], arguments.requests, in_flight, threads=threads
        )
        used = server.used().since(before)
        model_s = server.model_cpu_s(_ROW.signature, used.batches)
        lock_us = max(0.0, used.python_s - model_s) / arguments.requests * 1e6
        per_s = arguments.requests / loaded.seconds
        runs.append(
            (
                per_s,
                used.cpu_s / arguments.requests * 1e6,
                lock_us,
                per_s * lock_us / 1e6,
                1e6 / lock_us if lock_us else 0.0,
                loaded.percentile_ms(50),
                loaded.percentile_ms(99),
            )
        )
    # The first run warms up.
    per_s, cpu_us, lock_us, busy, most, p50, p99 = (
        statistics.median(values) for values in zip(*runs[1:], strict=True)
    )
    print(
        f"{transport:10}{cores:6}{per_s:9.0f}{cpu_us:8.0f}{lock_us:9.0f}{busy:11.2f}{most:15.0f}"
        f"{p50:8.1f}{p99:8.1f}",
        flush=True,
    )


def _measure_workers(workers: Workers, row: str, arguments: argparse.Namespace, cores: int) -> None:
    runs = []
    for _ in range(arguments.runs + 1):
        before = workers.cpu_s()
        loaded = load.send(
            workers.port,
            PREDICT,
            [request_of(_ROW)],
            arguments.requests,
            _FOR_EACH_CORE * cores,
            threads=cores,
        )
        cpu_us = (workers.cpu_s() - before) / arguments.requests * 1e6
        per_s = arguments.requests / loaded.seconds
        runs.append((per_s, cpu_us, loaded.percentile_ms(50), loaded.percentile_ms(99)))
    per_s, cpu_us, p50, p99 = (statistics.median(v) for v in zip(*runs[1:], strict=True))
    own_mb = workers.own_bytes() / 1e6
    print(f"{row}{per_s:9.0f}{cpu_us:8.0f}{own_mb:8.0f}{p50:8.1f}{p99:8.1f}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs for each line (default 3)")
    parser.add_argument("--requests", type=int, default=30000, help="in a run (default 30000)")
    parser.add_argument("--transports", default="grpcio,native", help="default grpcio,native")
    parser.add_argument("--workers", default="1,2", help="numbers of workers (default 1,2)")
    return parser


if __name__ == "__main__":
    main()
