"""What version swaps do to latency: a steady load of one request, while versions come and without.

    python benchmarks/swaps.py      some 80 seconds; needs h2load

The load is h2load's. It begins requests at a fixed pace, whether or not those before have been
answered. The server has all cores, and shares them with the load and with what publishes versions.
Turns: no swaps; each swap begins when the version before the last is unloaded; swaps with pauses.
A ratio is to the turn without swaps, of the same run. "CPU ms/swap" is the server's, without what
as many requests take in that turn.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
from harness import model
from harness.load import Load, Sending, framed

_METHOD = "/tensorflow.serving.PredictionService/Predict"
# The number of a version is part of each answer: all of these take as many bytes there.
_FIRST = 1000
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Turn:
    """What came of one turn."""

    load: Load
    failed: int
    swaps: int
    cpu_s: float
    """What the server used."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-s", type=int, default=400, help="requests a second (default 400)")
    parser.add_argument("--seconds", type=int, default=10, help="of a turn (default 10)")
    parser.add_argument(
        "--pause", type=float, default=2.0, help="between paced swaps (default 2 s)"
    )
    parser.add_argument("--transport", default="auto")
    parser.add_argument("--only", default="", help="turns of this name alone, beside the calm one")
    arguments = parser.parse_args()
    seconds, pause = arguments.seconds, arguments.pause
    turns = {
        "calm": (seconds, None),
        "on end": (seconds, 0.0),
        f"each {pause:g} s": (5 * seconds, pause),
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        _Server(Path(folder), arguments.transport) as server,
    ):
        server.swap()  # the first is slower: modules are imported
        _take(server, 2, None, arguments.per_s)
        calm: Turn | None = None
        print(f"{'swaps':10} number requests failed  p50 ms  p99 ms  max ms  p99/calm  CPU ms/swap")
        for name, (length, wait) in turns.items():
            if arguments.only not in name and wait is not None:
                continue
            turn = _take(server, length, wait, arguments.per_s)
            calm = calm or turn
            _print_row(name, turn, calm)


def _take(server: _Server, seconds: int, pause_s: float | None, per_s: int) -> Turn:
    """Send requests for so long; swap versions meanwhile, with so long a pause, if there is one."""
    over = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while pause_s is not None and not over.wait(pause_s):
            server.swap()
            swaps += 1

    answer = len(framed(server.ask()))
    before = server.cpu_s()
    thread = threading.Thread(target=swap)
    with Sending(
        *(server.port, _METHOD, [model.one_image()], 32), seconds=seconds, per_s=per_s, threads=1
    ) as sending:
        thread.start()
        load = sending.result()
        over.set()
        thread.join()
    return Turn(load, load.requests - load.body_bytes // answer, swaps, server.cpu_s() - before)


def _print_row(name: str, turn: Turn, calm: Turn) -> None:
    load, p99 = turn.load, turn.load.percentile_ms(99)
    calm_s = calm.cpu_s / calm.load.requests * load.requests
    cpu = f"{1000 * (turn.cpu_s - calm_s) / turn.swaps:8.1f}" if turn.swaps else ""
    print(
        f"{name:10} {turn.swaps:6} {load.requests:8} {turn.failed:6} "
        f"{load.percentile_ms(50):7.2f} {p99:7.2f} {load.percentile_ms(100):7.1f} "
        f"{p99 / calm.load.percentile_ms(99):9.2f}  {cpu}",
        flush=True,
    )


class _Server:
    """A `ladle serve` on any core, whose log says how versions stand; a context manager."""

    def __init__(self, folder: Path, transport: str) -> None:
        self._base_path, self._version = folder / "m", _FIRST
        model.publish(self._base_path / str(_FIRST))
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "ladle.cli", "serve", "--port=auto"),
                    *("--model_name=bench", f"--model_base_path={self._base_path}"),
                    *("--file_system_poll_wait_seconds=0.1", f"--transport={transport}"),
                    "--enable_serialization_as_tensor_content",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.port = int(self._wait_for(r"listening on \S+:(\d+)")[1])
        self._wait_for("available model=bench")

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self) -> bytes:
        """Return the answer to the request that the load sends."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            predict: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
            return predict(model.one_image(), timeout=_TIMEOUT_S)

    def swap(self) -> None:
        """Publish one more version, and wait until the one before it is unloaded."""
        old, self._version = self._version, self._version + 1
        staged = self._base_path / "staged"
        shutil.copytree(self._base_path / str(old), staged)
        staged.rename(self._base_path / str(self._version))
        self._wait_for(f"unloaded model=bench version={old}")
        shutil.rmtree(self._base_path / str(old))

    def cpu_s(self) -> float:
        """Return the CPU seconds that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def _wait_for(self, pattern: str) -> re.Match[str]:
        until = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < until and self._process.poll() is None:
            if found := re.search(pattern, self._log.read_text(errors="replace")):
                return found
            time.sleep(0.01)
        raise SystemExit(f"the server never said {pattern!r}:\n{self._log.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
