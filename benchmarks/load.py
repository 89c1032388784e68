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
    with Sending(port, method, messages, in_flight, requests=requests) as sending:
        return sending.result()


class Sending:
    """A load that goes on beside other things; a context manager, which ends it."""

    def __init__(
        self,
        port: int,
        method: str,
        messages: Sequence[bytes],
        in_flight: int,
        *,
        requests: int | None = None,
        seconds: int = 0,
    ) -> None:
        """Start it: for so many `requests`, or for `seconds`."""
        if shutil.which("h2load") is None:
            raise SystemExit("benchmarks need h2load: apt-get install nghttp2-client")
        connections = min(in_flight, _MAX_CONNECTIONS)
        self._folder = tempfile.TemporaryDirectory()
        body = Path(self._folder.name, "body")
        self._log = Path(self._folder.name, "log")
        body.write_bytes(b"".join(b"\0" + len(m).to_bytes(4, "big") + m for m in messages))
        much = ["-D", str(seconds)] if requests is None else ["-n", str(requests)]
        self._process = subprocess.Popen(
            [
                *("h2load", *much, "-c", str(connections)),
                *("-m", str(in_flight // connections), "-d", str(body)),
                *("-w", "24", "-W", "24"),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"--log-file={self._log}",
                f"http://127.0.0.1:{port}{method}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_off_the_servers_cpu,
        )

    def __enter__(self) -> Sending:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()

    @property
    def done(self) -> bool:
        """Whether it has ended by itself."""
        return self._process.poll() is not None

    def result(self) -> Load:
        """Wait for its end, and return what came of it."""
        said = self._process.communicate()[0]
        if " 0 failed" not in said or " 0 succeeded" in said:
            raise SystemExit(f"h2load failed:\n{said}")
        lines = [line.split("\t") for line in self._log.read_text().splitlines()]
        starts = [int(start) / 1e6 for start, _, _ in lines]
        latencies = [int(took) / 1e6 for _, _, took in lines]
        ends = [start + took for start, took in zip(starts, latencies, strict=True)]
        return Load(len(lines), max(ends) - min(starts), sorted(latencies))


def _off_the_servers_cpu() -> None:
    if hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - {SERVER_CPU}
        os.sched_setaffinity(0, others or {SERVER_CPU})
