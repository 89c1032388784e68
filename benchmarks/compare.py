"""`make compare`: ladle beside other servers of the same model, each alone on one core.

Each is installed in an environment of its own, asked through a real client of its kind, and then
loaded in turn with the others, which stand still meanwhile. Prints one table; see README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import environments, load, model
from harness.pinned import CannotStart, PinnedServer

_SCRIPTS = Path(__file__).resolve().parent / "servers"
_IN_FLIGHT = (1, 32, 128)
_CHECK_TIMEOUT_S = 120
_PROBABILITIES = 10
_LEAST_ANSWER_BYTES = 4 * _PROBABILITIES
_OIP = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A server to compare."""

    name: str
    package: str
    path: str
    """Where requests go: a gRPC method, or a plain HTTP path."""
    http1: bool = False
    how: str
    """The transport that was best for it here, and how it batches."""

    @property
    def script(self) -> Path:
        """What serves and asks."""
        return _SCRIPTS / f"serve_{self.package}.py"


KINDS = (
    Kind(
        name="ladle",
        package="ladle",
        path="/tensorflow.serving.PredictionService/Predict",
        how="gRPC, Predict; batches",
    ),
    Kind(
        name="KServe",
        package="kserve",
        path=_OIP,
        how="gRPC, Open Inference Protocol, raw contents; no batching over gRPC",
    ),
    Kind(
        name="MLServer",
        package="mlserver",
        path=_OIP,
        how="gRPC, Open Inference Protocol, raw contents; adaptive batching",
    ),
    Kind(
        name="mosec",
        package="mosec",
        path="/inference",
        http1=True,
        how="HTTP/1.1, bare float32 bytes; dynamic batching",
    ),
    Kind(
        name="Ray Serve",
        package="ray",
        path="/ladle.benchmarks.Classifier/Predict",
        how="gRPC, float32 bytes in a BytesValue; @serve.batch",
    ),
)


@dataclass
class Running:
    """A server that answers rightly."""

    kind: Kind
    server: PinnedServer
    request: bytes
    answer_bytes: float = 0.0
    """The body of an answer."""


@dataclass(frozen=True)
class Figures:
    """What one run came to."""

    requests_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class Wrong(Exception):
    """A server answers wrongly or not at all; the message says how."""


def main() -> None:
    """Measure, and print the table."""
    arguments = _parser().parse_args()
    # So that a run that is ended ends its servers, which may be standing still.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    runs, seconds = (3, 2) if arguments.quick else (arguments.runs, arguments.seconds)
    kinds = [kind for kind in KINDS if kind.name in arguments.only.split(",") or not arguments.only]
    print(f"{_machine()}\n")
    pythons = _environments(kinds, arguments.cache)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name, "base", "1")
        model.publish(folder)
        running = _start(pythons, folder, stack)
        measured = measure(running, runs, seconds)
    _print_table(measured)


def measure(
    running: list[Running], runs: int, seconds: int
) -> dict[tuple[int, Kind], list[Figures]]:
    """Return each server's figures by load and run; a server that fails is left out from there."""
    figures: dict[tuple[int, Kind], list[Figures]] = {}
    for run in range(runs + 1):
        for in_flight in _IN_FLIGHT:
            for each in list(running):
                each.server.resume()
                try:
                    measured = _loaded(each, in_flight, seconds)
                except (load.Failed, Wrong) as error:
                    print(f"{each.kind.name} left out: {error}", flush=True)
                    running.remove(each)
                    figures = {key: f for key, f in figures.items() if key[1] != each.kind}
                    continue
                finally:
                    each.server.pause()
                if run:  # the first one warms up
                    figures.setdefault((in_flight, each.kind), []).append(measured)
    return figures


def _loaded(each: Running, in_flight: int, seconds: int) -> Figures:
    before = each.server.cpu_s()
    with load.Sending(
        each.server.port,
        each.kind.path,
        [each.request],
        in_flight,
        seconds=seconds,
        http1=each.kind.http1,
    ) as sending:
        loaded = sending.result()
    cpu_s = each.server.cpu_s() - before
    # An error over gRPC has the HTTP status of a success, but no body.
    if loaded.body_bytes < 0.99 * loaded.requests * each.answer_bytes:
        raise Wrong(
            f"with {in_flight} in flight {loaded.requests} answers have {loaded.body_bytes} bytes "
            f"instead of {each.answer_bytes:.0f} each"
        )
    return Figures(
        requests_per_s=loaded.requests / loaded.seconds,
        cpu_us=cpu_s / loaded.requests * 1e6,
        p50_ms=loaded.percentile_ms(50),
        p99_ms=loaded.percentile_ms(99),
    )


def _environments(kinds: Sequence[Kind], cache: Path) -> dict[Kind, str]:
    """Return the Python for each server; those that can't be installed are left out, and told."""
    pythons = {}
    for kind in kinds:
        if kind.name == "ladle":
            pythons[kind] = sys.executable
            continue
        requirements = _SCRIPTS / f"{kind.package}.txt"
        try:
            pythons[kind] = str(environments.prepare(cache / kind.package, requirements))
        except environments.CannotInstall as error:
            print(f"{kind.name} left out: can't be installed: {error}", flush=True)
    return pythons


def _start(pythons: Mapping[Kind, str], folder: Path, stack: contextlib.ExitStack) -> list[Running]:
    """Start the servers one after the other, and return those that answer rightly, paused."""
    running: list[Running] = []
    expected: list[float] = []
    for kind, python in pythons.items():
        command = [python, str(kind.script), "serve", str(folder)]
        log = folder.parent.parent / f"{kind.package}.log"
        server = stack.enter_context(PinnedServer(kind.name, command, log))
        try:
            server.wait()
            answer = _asked(kind, python, server)
            expected = expected or answer
            each = Running(kind, server, _output(kind, python, "request"))
            _check(each, answer, expected)
        except (CannotStart, Wrong, load.Failed) as error:
            print(f"{kind.name} left out: {error}", flush=True)
            server.close()
            continue
        server.pause()
        running.append(each)
        print(f"{kind.name} {_versions(kind, python)}: {kind.how}", flush=True)
    return running


def _asked(kind: Kind, python: str, server: PinnedServer) -> list[float]:
    """Return what a real client gets; a server may listen before it has its model."""
    until = time.monotonic() + _CHECK_TIMEOUT_S
    while True:
        try:
            answer: list[float] = json.loads(_output(kind, python, "check", str(server.port)))
            return answer
        except (Wrong, json.JSONDecodeError) as error:
            if time.monotonic() > until:
                raise Wrong(f"{error}; it said last: {server.last_words()}") from None
        time.sleep(0.5)


def _check(each: Running, answer: Sequence[float], expected: Sequence[float]) -> None:
    if len(answer) != _PROBABILITIES or not np.allclose(answer, expected, atol=1e-5):
        raise Wrong(f"expected {expected}, got {answer}")
    with load.Sending(
        each.server.port,
        each.kind.path,
        [each.request],
        1,
        requests=100,
        http1=each.kind.http1,
    ) as sending:
        loaded = sending.result()
    each.answer_bytes = loaded.body_bytes / loaded.requests
    if each.answer_bytes < _LEAST_ANSWER_BYTES:
        raise Wrong(f"the load gets answers of {each.answer_bytes} bytes")


def _output(kind: Kind, python: str, *arguments: str) -> bytes:
    try:
        return subprocess.run(
            [python, str(kind.script), *arguments],
            check=True,
            capture_output=True,
            timeout=_CHECK_TIMEOUT_S,
        ).stdout
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise Wrong(f"its client failed: {lines[-1] if lines else error}") from None
    except subprocess.TimeoutExpired as error:
        raise Wrong(str(error)) from None


def _versions(kind: Kind, python: str) -> str:
    code = (
        "from importlib.metadata import version\n"
        f"print(version({kind.package!r}), '(grpcio', version('grpcio') + ')')"
    )
    return subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def _print_table(measured: Mapping[tuple[int, Kind], Sequence[Figures]]) -> None:
    print(
        f"\n{'server':12}{'in flight':>10}{'req/s':>8}{'(min-max)':>14}{'µs/req':>8}{'p50 ms':>8}"
        f"{'p99 ms':>8}   ladle's requests/s are"
    )
    for (in_flight, kind), runs in sorted(measured.items(), key=lambda item: item[0][0]):
        rates = [run.requests_per_s for run in runs]
        line = (
            f"{kind.name:12}{in_flight:10}{statistics.median(rates):8.0f}"
            f"{f'{min(rates):.0f}-{max(rates):.0f}':>14}"
        )
        for name in ("cpu_us", "p50_ms", "p99_ms"):
            value = statistics.median(getattr(run, name) for run in runs)
            line += f"{value:8.0f}" if name == "cpu_us" else f"{value:8.2f}"
        ladle = measured.get((in_flight, KINDS[0]), [])
        if kind != KINDS[0] and ladle:
            # Run by run: whatever else the machine did in a round, it did to both.
            pairs = list(zip(ladle, runs, strict=True))
            ratios = [ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs]
            cpu = statistics.median(ours.cpu_us / theirs.cpu_us for ours, theirs in pairs)
            line += (
                f"   {statistics.median(ratios):.1f} times these"
                f" ({min(ratios):.1f}-{max(ratios):.1f}), for {cpu:.2f} of the CPU each"
            )
        print(line)


def _machine() -> str:
    return (
        f"{platform.machine()}, Python {platform.python_version()}, "
        f"TensorFlow {_tensorflow_version()}; each server on one core, load on another; "
        "one float32 image a request"
    )


def _tensorflow_version() -> str:
    from importlib.metadata import version

    return version("tensorflow")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="of each run (default 4)")
    parser.add_argument("--quick", action="store_true", help="3 runs of 2 seconds")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path.home() / ".cache" / "ladle" / "compare",
        help="where the other servers are installed (default %(default)s)",
    )
    return parser


if __name__ == "__main__":
    main()
