"""Load from h2load, whose own cost is small: the same request again and again."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from process import SERVER_CPU

_MAX_CONNECTIONS = 4
_LONGEST_S = 600
_NO_ANSWER = "-1"
"""The status that h2load notes of a request that failed."""
_GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")
_HTTP1 = ("--h1", "-H", "content-type: application/octet-stream")


class Failed(SystemExit):
    """The load could not be sent, or was not answered; the message says why."""


@dataclass(frozen=True)
class Load:
    """What came of a run of requests."""

    requests: int
    seconds: float
    latencies_s: list[float]
    """Sorted."""
    body_bytes: int
    """What the bodies of the answers came to; headers and trailers don't count."""
    failed: int = 0
    """Requests that had no answer, and no latency."""

    def percentile_ms(self, percent: float) -> float:
        """Return the latency that so many percent of the requests stayed below."""
        index = min(len(self.latencies_s) - 1, int(len(self.latencies_s) * percent / 100))
        return self.latencies_s[index] * 1000


def send(
    port: int,
    method: str,
    messages: Sequence[bytes],
    requests: int,
    in_flight: int,
    *,
    http1: bool = False,
    headers: Sequence[str] = (),
    per_s: float | None = None,
    threads: int | None = None,
) -> Load:
    """Send requests, so many at a time, each holding these messages; blocks until all are done.

    `http1` and `headers` are those of `Sending`. `per_s` is how many begin in a second; by default
    the next begins when one ends. `threads`: let so many send, on any core, and not one that keeps
    off the server's.

    Raises:
        Failed: h2load is missing, or a request failed.
    """
    with Sending(
        *(port, method, messages, in_flight),
        requests=requests,
        http1=http1,
        headers=headers,
        per_s=per_s,
        threads=threads,
    ) as sending:
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
        http1: bool = False,
        tls: bool = False,
        headers: Sequence[str] = (),
        per_s: float | None = None,
        threads: int | None = None,
    ) -> None:
        """Start it: for so many `requests`, or for `seconds`; `per_s` begin in each of them.

        With `http1` the messages are the body of a plain HTTP/1.1 request, and not gRPC's;
        `headers` are lines that it has besides. With `tls`, whatever certificate the server has.
        """
        if shutil.which("h2load") is None:
            raise Failed("benchmarks need h2load: apt-get install nghttp2-client")
        connections = in_flight if http1 else min(in_flight, _MAX_CONNECTIONS * (threads or 1))
        self._folder = tempfile.TemporaryDirectory()
        body = Path(self._folder.name, "body")
        self._log = Path(self._folder.name, "log")
        body.write_bytes(b"".join(messages if http1 else map(framed, messages)))
        much = ["-D", str(seconds)] if requests is None else ["-n", str(requests)]
        self._process = subprocess.Popen(
            [
                *("h2load", *much, "-c", str(connections)),
                *("-m", str(in_flight // connections), "-d", str(body)),
                *([] if threads is None else ["-t", str(threads)]),
                *([] if per_s is None else [f"--rps={max(1, round(per_s / connections))}"]),
                *("-w", "24", "-W", "24"),
                *(_HTTP1 if http1 else _GRPC),
                *(argument for line in headers for argument in ("-H", line)),
                f"--log-file={self._log}",
                f"{'https' if tls else 'http'}://127.0.0.1:{port}{method}",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_off_the_servers_cpu if threads is None else None,
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

    def result(self, *, may_fail: bool = False) -> Load:
        """Wait for its end, and return what came of it.

        Raises:
            Failed: It takes too long, or a request failed and none may.
        """
        try:
            said = self._process.communicate(timeout=_LONGEST_S)[0]
        except subprocess.TimeoutExpired:
            raise Failed(f"the load was not answered within {_LONGEST_S} s") from None
        if may_fail and " 0 succeeded" in said:
            return Load(0, 0.0, [math.inf], 0, failed=1)
        if " 0 succeeded" in said or (" 0 failed" not in said and not may_fail):
            raise Failed(f"h2load failed:\n{said}")
        lines = [line.split("\t") for line in self._log.read_text().splitlines()]
        ended = len(lines)
        lines = [line for line in lines if line[1] != _NO_ANSWER]
        starts = [int(start) / 1e6 for start, _, _ in lines]
        latencies = [int(took) / 1e6 for _, _, took in lines]
        ends = [start + took for start, took in zip(starts, latencies, strict=True)]
        traffic = re.search(r"\((\d+)\) data$", said, re.MULTILINE)
        assert traffic is not None
        return Load(
            len(lines),
            max(ends) - min(starts),
            sorted(latencies),
            int(traffic[1]),
            failed=ended - len(lines),
        )


def framed(message: bytes) -> bytes:
    """Return a message as it is sent in a body of gRPC's."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def _off_the_servers_cpu() -> None:
    if hasattr(os, "sched_setaffinity"):
        others = os.sched_getaffinity(0) - {SERVER_CPU}
        os.sched_setaffinity(0, others or {SERVER_CPU})
