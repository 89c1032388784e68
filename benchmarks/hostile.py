"""What callers who mean harm cost good ones over the native transport: `benchmarks/hostile.py`.

A steady load of good requests is measured alone, and then beside each kind of harm: what callers
send (`tests/server/transport/native/harms.py`), what befalls the server's process, and at last all
that callers send, mixed. Printed are the good requests' latencies, how many of them had no answer,
how often harm was done, and what the process holds afterwards: memory, threads and descriptors,
which should be what they were. `--seconds 12` takes ten minutes. The last line says what an idle
connection takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import PREDICT
from harness import load, model
from process import ServerProcess

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(_TESTS))

from server.transport.native.harms import Harm, harms  # noqa: E402
from server.transport.native.http2 import (  # noqa: E402
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Connection,
    frame,
    headers,
    message,
)

_GOOD_PER_S = 500
_IN_FLIGHT = 16
_AT_ONCE = 4
"""Threads that do harm."""
_HELD = 50
"""Connections that each of them keeps open, where harm is in keeping them."""
_LINGER_S = 0.5
_ROOM = 64 << 20
"""What requests under way may take, in bytes."""
_MIXED = 10
"""How many times as long as one kind of harm all of them take, mixed."""
_IDLE = 8000
"""Connections that are counted idle; the result is told for `_IDLE_TOLD` of them."""
_IDLE_TOLD = 100_000
_PYTHON_RESTS_S = 10
_RESTING = """
import ctypes, signal
# Called as Python's own, sleep keeps the lock, and no thread of Python's goes on.
signal.signal(signal.SIGUSR1, lambda *_: ctypes.PyDLL(None).sleep({seconds}))
"""

Once = Callable[[ServerProcess], None]
"""Does harm once."""


def _of_callers(harm: Harm) -> Once:
    """Return what does a caller's harm."""

    def once(server: ServerProcess) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(_HELD if harm.held else 1):
                with contextlib.suppress(OSError):
                    connection = stack.enter_context(Connection(server.port, timeout_s=1))
                    connection.send(harm.frames)
                    if harm.half_closed:
                        connection.half_close()
            if harm.held:
                time.sleep(_LINGER_S)

    return once


def _of_all(each: list[Once]) -> Once:
    """Return what does harm of any of these kinds."""
    return lambda server: random.choice(each)(server)


def _stopped(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(server.pid, signal.SIGCONT)
    time.sleep(1)


def _python_rests(server: ServerProcess) -> None:
    os.kill(server.pid, signal.SIGUSR1)
    time.sleep(_PYTHON_RESTS_S + 1)


def _no_descriptors(server: ServerProcess) -> None:
    """Take all descriptors, and come for more; those who are connected don't need any."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    least = _held_by(server.pid).descriptors + 8
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (least, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 1))
        time.sleep(_LINGER_S)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each kind of harm (default 3)")
    parser.add_argument("--only", default="", help="kinds with this text in their name")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    _allow_descriptors()
    kinds = harms(PREDICT, model.one_image(), _ROOM)
    by_callers = {name: _of_callers(harm) for name, harm in kinds.items()}
    by_one: dict[str, Once] = {
        "kill -STOP, -CONT": _stopped,
        "no descriptors": _no_descriptors,
    }
    print(_HEAD)
    with _server() as server:
        good = _Good(server)
        before = good.measure("nobody", None, seconds)
        for name, once in by_callers.items():
            if arguments.only in name:
                good.measure(name, once, seconds)
        for name, once in by_one.items():
            if arguments.only in name:
                good.measure(name, once, seconds, at_once=1)
        if arguments.only in "a Python that rests":
            good.measure("a Python that rests", _python_rests, 15, at_once=1)
        if arguments.only in "all, mixed":
            mixed = _of_all(list(by_callers.values()))
            good.measure("all, mixed", mixed, seconds * _MIXED)
        time.sleep(2 * _LINGER_S)
        after = good.measure("nobody", None, seconds)
        print(f"\nheld before {before}, after {after}")
        _print_idle(server)


@contextlib.contextmanager
def _server() -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "model", "1"))
        Path(folder, "sitecustomize.py").write_text(_RESTING.format(seconds=_PYTHON_RESTS_S))
        flags = (
            "--transport=native",
            "--grpc_compressed_requests",
            f"--max_request_bytes={_ROOM}",
            f"--max_inflight_bytes={_ROOM}",
        )
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        with ServerProcess("ladle", str(Path(folder, "model")), *flags) as server:
            yield server


@dataclass(frozen=True)
class _Held:
    mib: float
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.mib:.0f} MiB, {self.threads} threads, {self.descriptors} descriptors"


def _held_by(pid: int) -> _Held:
    status = Path(f"/proc/{pid}/status").read_text()
    held = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return _Held(int(held["VmRSS"].split()[0]) / 1024, int(held["Threads"]), descriptors)


_HEAD = (
    f"{'':30}{'good':>8}{'no answer':>11}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"
    f"{'harms':>8}{'MiB':>7}{'threads':>9}{'descriptors':>13}"
)


class _Good:
    """The callers who mean well, whose answers are all alike."""

    def __init__(self, server: ServerProcess) -> None:
        """Warm the server up with them."""
        self._server = server
        self._request = [model.one_image()]
        warm = load.send(server.port, PREDICT, self._request, 5000, _IN_FLIGHT)
        self._answer_bytes = warm.body_bytes / warm.requests

    def measure(self, name: str, once: Once | None, seconds: int, at_once: int = _AT_ONCE) -> _Held:
        """Measure them beside harm, print a line, and return what the server holds then."""
        stop = threading.Event()
        counts = [0] * at_once

        def harming(number: int) -> None:
            while once is not None and not stop.is_set():
                once(self._server)
                counts[number] += 1

        threads = [
            threading.Thread(target=harming, args=(number,), daemon=True)
            for number in range(at_once)
        ]
        given = self._server.port, PREDICT, self._request, _IN_FLIGHT
        requests = _GOOD_PER_S * seconds
        with load.Sending(*given, requests=requests, per_s=_GOOD_PER_S) as sending:
            time.sleep(_LINGER_S)  # they are connected, as those of a client are
            for thread in threads:
                thread.start()
            sent = sending.result(may_fail=True)
        stop.set()
        for thread in threads:
            thread.join()
        held = _settled(self._server.pid)
        # A refusal is a status without a body, and h2load knows nothing of statuses.
        answered = round(sent.body_bytes / self._answer_bytes)
        print(
            f"{name:30}{answered:8}{sent.requests + sent.failed - answered:11}"
            f"{sent.percentile_ms(50):8.1f}{sent.percentile_ms(99):8.1f}"
            f"{sent.percentile_ms(100):8.1f}{sum(counts):8}"
            f"{held.mib:7.0f}{held.threads:9}{held.descriptors:13}",
            flush=True,
        )
        return held


def _settled(pid: int) -> _Held:
    """Return what the process holds once it no longer gives descriptors back."""
    held = _held_by(pid)
    while True:
        time.sleep(0.2)
        before, held = held, _held_by(pid)
        if held.descriptors >= before.descriptors:
            return held


def _print_idle(server: ServerProcess) -> None:
    """Print what a connection takes that was used once, and is kept."""
    before = _settled(server.pid)
    call = frame(HEADERS, END_HEADERS, 1, headers(PREDICT)) + frame(
        DATA, END_STREAM, 1, message(model.one_image())
    )
    with contextlib.ExitStack() as stack:
        for _ in range(_IDLE):
            connection = stack.enter_context(Connection(server.port))
            connection.send(call)
            connection.wait_for(DATA)
        held = _held_by(server.pid)
    kib = (held.mib - before.mib) * 1024 / _IDLE
    print(
        f"{_IDLE} idle connections, each after a call: {kib:.1f} KiB each, "
        f"{kib * _IDLE_TOLD / 1024:.0f} MiB for {_IDLE_TOLD}"
    )


def _allow_descriptors() -> None:
    """Allow this process, and the server that it starts, as many descriptors as there may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
