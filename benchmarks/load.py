"""Load from h2load, whose own cost is small: the same request again and again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from process import SERVER_CPU

_MAX_CONNECTIONS = 4


@dataclass(frozen=True)
class Load:
    """What came of a run of requests."""

    requests: int
    seconds: float
    latencies_s: list[float]
    """Sorted."""

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that so many percent of the requests stayed below."""
        index = min(len(self.latencies_s) - 1, int(len(self.latencies_s) * percent / 100))
        return self.latencies_s[index] * 1000


def send(port: int, method: str, messages: Sequence[bytes], requests: int, in_flight: int) -> Load:
    """Send requests, so many at a time, each holding these messages; blocks until all are done.

    Raises:
        SystemExit: h2load is missing, or a request failed.
    """
    if shutil.which("h2load") is None:
        raise SystemExit("benchmarks need h2load: apt-get install nghttp2-client")
    connections = min(in_flight, _MAX_CONNECTIONS)
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in messages))
        done = subprocess.run(
            [
                "h2load",
                *("-n", str(requests), "-c", str(connections)),
                *("-m", str(in_flight // connections), "-d", str(body)),
                *("-w", "24", "-W", "24"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"--log-file={log}",
                f"http://127.0.0.1:{port}{method}",
            ],
            capture_output=True,
            text=True,
            preexec_fn=_off_the_servers_cpu,
        )
        if f"{requests} succeeded, 0 failed" not in done.stdout:
            raise SystemExit(f"h2load failed:\n{done.stdout}{done.stderr}")
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    starts = [int(start) / 1e6 for start, _, _ in lines]
    latencies = [int(took) / 1e6 for _, _, took in lines]
    ends = [start + took for start, took in zip(starts, latencies, strict=True)]
    return Load(requests, max(ends) - min(starts), sorted(latencies))


def _off_the_servers_cpu() -> None:
    if hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - {SERVER_CPU}
        os.sched_setaffinity(0, others or {SERVER_CPU})
