"""Three times the load that a model can bear: what is answered of it, how soon, and what it costs.

The model takes 50 ms for a batch of 32, and two batches may wait. First as much as it bears is
sent, then three times that, while real clients measure how long those wait whose requests are
taken, and what the others get. Linux only, for /proc.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import bench
import grpc
import numpy as np
from harness import load, model
from process import ServerProcess

_BATCH = 32
_PARAMETERS = (
    f"max_batch_size {{ value: {_BATCH} }} max_enqueued_batches {{ value: 2 }} "
    "num_batch_threads { value: 1 }"
)
_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_PROBES = 4


def main() -> None:
    """Measure, and print a line for each kind of request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="how long the load lasts")
    parser.add_argument("--times", type=float, default=3, help="what the model can bear")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "model", "1"))
        parameters = Path(folder, "batching")
        parameters.write_text(_PARAMETERS)
        flag = f"--batching_parameters_file={parameters}"
        with ServerProcess("ladle", str(Path(folder, "model")), flag) as server:
            for rows in (1, 8):
                _measure(server, rows, arguments.seconds, arguments.times)


@dataclass
class _Probe:
    """What real clients see."""

    taken_ms: list[float] = field(default_factory=list)
    refused: int = 0
    hinted: int = 0
    other: list[str] = field(default_factory=list)

    def run(self, port: int, request: bytes, until: float) -> None:
        """Send one request after the other."""
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PREDICT)
            while time.monotonic() < until:
                started = time.monotonic()
                try:
                    call(request, timeout=60)
                    self.taken_ms.append((time.monotonic() - started) * 1000)
                except grpc.RpcError as error:
                    self._note(error)

    def _note(self, error: grpc.RpcError) -> None:
        hint = {item.key: item.value for item in error.trailing_metadata() or ()}
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            self.other.append(str(error.code()))
            return
        self.refused += 1
        self.hinted += "grpc-retry-pushback-ms" in hint
        time.sleep(0.01)  # a caller that comes back at once would be a flood of its own


def _measure(server: ServerProcess, rows: int, seconds: int, times: float) -> None:
    row = bench.Row("", "serving_default", np.float32, rows, 1, 1)
    request = bench.request_of(row, "slow")
    in_flight = 2 * _BATCH // rows  # one batch runs while the next one gathers
    load.send(server.port, _PREDICT, [request], 10 * in_flight, in_flight)

    before = server.used()
    borne = load.send(server.port, _PREDICT, [request], 10 * seconds * in_flight, in_flight)
    used = server.used().since(before)
    answers = used.batches.total() and sum(n * k for n, k in used.batches.items()) / rows
    answer_us = used.cpu_s / answers * 1e6
    sustainable = answers / borne.seconds

    resident = _resident(server.pid, "VmRSS")
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # the peak begins anew
    probe = _Probe()
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=probe.run, args=(server.port, request, until))
        for _ in range(_PROBES)
    ]
    before, began = server.used(), time.monotonic()
    count = int(times * sustainable * seconds)
    with load.Sending(
        server.port, _PREDICT, [request], 512, requests=count, per_s=times * sustainable
    ) as sending:
        for thread in threads:
            thread.start()
        sending.result()
    used, took_s = server.used().since(before), time.monotonic() - began
    for thread in threads:
        thread.join()
    answered = sum(n * k for n, k in used.batches.items()) / rows
    refused = count + len(probe.taken_ms) + probe.refused - answered
    refusal_us = (used.cpu_s * 1e6 - answered * answer_us) / refused
    taken = sorted(probe.taken_ms) or [float("nan")]
    grown = (_resident(server.pid, "VmHWM") - resident) / (1 << 20)
    print(
        f"{rows} image(s) a request: bears {sustainable:.0f}/s; of {count / took_s:.0f}/s "
        f"{answered / took_s:.0f}/s are answered, a share of {answered / took_s / sustainable:.2f} "
        f"of what it bears\n"
        f"  those that are taken: p50 {taken[len(taken) // 2]:.0f} ms, "
        f"p99 {taken[int(len(taken) * 0.99)]:.0f} ms, of {len(probe.taken_ms)}; "
        f"{probe.hinted} of {probe.refused} refusals say when to come back; others: "
        f"{probe.other or 'none'}\n"
        f"  server CPU: {answer_us:.0f} µs an answer, {refusal_us:.0f} µs a refusal "
        f"({refusal_us / answer_us:.2f}); memory {grown:+.0f} MiB",
        flush=True,
    )


def _resident(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
