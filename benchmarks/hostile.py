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
import json
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import PREDICT
from harness import harming, load, model
from process import ServerProcess
from server.transport.native.harms import harms  # found by `harming`
from server.transport.native.http2 import (
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
_ROOM = 64 << 20
"""What requests under way may take, in bytes."""
_MIXED = 10
"""How many times as long as one kind of harm all of them take, mixed."""
_IDLE = 8000
"""How many idle connections are opened to measure the memory of one."""
_IDLE_SHOWN = 100_000
"""The table shows the memory of so many."""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each kind of harm (default 3)")
    parser.add_argument("--only", default="", help="kinds with this text in their name")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    _allow_descriptors()
    kinds = harms(PREDICT, model.one_image(), _ROOM)
    by_callers = {name: harming.of_callers(harm) for name, harm in kinds.items()}
    by_one: dict[str, harming.Once] = {
        "kill -STOP, -CONT": harming.stopped,
        "no descriptors": harming.no_descriptors,
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
            good.measure("a Python that rests", harming.python_rests, 15, at_once=1)
        if arguments.only in "all, mixed":
            mixed = harming.of_all(list(by_callers.values()))
            good.measure("all, mixed", mixed, seconds * _MIXED)
        time.sleep(2 * harming.LINGER_S)
        after = good.measure("nobody", None, seconds)
        print(f"\nheld before {before}, after {after}")
        _print_idle(server)
    if arguments.only in "TLS handshakes":
        print(f"\n{_HEAD}")
        with _server(tls=True) as server:
            good = _Good(server, tls=True)
            good.measure("nobody, with TLS", None, seconds)
            good.measure("TLS handshakes without end", harming.handshakes, seconds)


def _ssl_config(folder: str) -> str:
    """Make a certificate, and return the path of the server's file that has it."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    made = [*command.split(), "-keyout", f"{folder}/key", "-out", f"{folder}/certificate"]
    subprocess.run(made, check=True, capture_output=True)
    fields = {"server_key": "key", "server_cert": "certificate"}
    lines = [f"{field}: {json.dumps(Path(folder, f).read_text())}" for field, f in fields.items()]
    path = Path(folder, "ssl.pbtxt")
    path.write_text("\n".join(lines))
    return str(path)


@contextlib.contextmanager
def _server(*, tls: bool = False) -> Iterator[ServerProcess]:
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "model", "1"))
        Path(folder, "sitecustomize.py").write_text(harming.RESTING)
        flags = (
            "--transport=native",
            "--grpc_compressed_requests",
            f"--max_request_bytes={_ROOM}",
            f"--max_inflight_bytes={_ROOM}",
            *([f"--ssl_config_file={_ssl_config(folder)}"] if tls else []),
        )
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        with ServerProcess("ladle", str(Path(folder, "model")), *flags) as server:
            yield server


_HEAD = (
    f"{'':30}{'good':>8}{'no answer':>11}{'p50 ms':>8}{'p99 ms':>8}{'max ms':>8}"
    f"{'harms':>8}{'MiB':>7}{'threads':>9}{'descriptors':>13}"
)


class _Good:
    """The callers who mean well, whose answers are all alike."""

    def __init__(self, server: ServerProcess, *, tls: bool = False) -> None:
        """Warm the server up with them."""
        self._server = server
        self._tls = tls
        self._request = [model.one_image()]
        given = server.port, PREDICT, self._request, _IN_FLIGHT
        with load.Sending(*given, requests=5000, tls=tls) as sending:
            warm = sending.result()
        self._answer_bytes = warm.body_bytes / warm.requests

    def measure(
        self, name: str, once: harming.Once | None, seconds: int, at_once: int = _AT_ONCE
    ) -> harming.Held:
        """Measure them beside harm, print a line, and return what the server holds then."""
        stop = threading.Event()
        counts = [0] * at_once

        def do_harm(number: int) -> None:
            while once is not None and not stop.is_set():
                once(self._server)
                counts[number] += 1

        threads = [
            threading.Thread(target=do_harm, args=(number,), daemon=True)
            for number in range(at_once)
        ]
        given = self._server.port, PREDICT, self._request, _IN_FLIGHT
        requests = _GOOD_PER_S * seconds
        with load.Sending(*given, requests=requests, per_s=_GOOD_PER_S, tls=self._tls) as sending:
            time.sleep(harming.LINGER_S)  # they are connected, as those of a client are
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


def _settled(pid: int) -> harming.Held:
    """Return what the process holds once it no longer gives descriptors back."""
    held = harming.held_by(pid)
    while True:
        time.sleep(0.2)
        before, held = held, harming.held_by(pid)
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
        held = harming.held_by(server.pid)
    kib = (held.mib - before.mib) * 1024 / _IDLE
    print(
        f"{_IDLE} idle connections, each after a call: {kib:.1f} KiB each, "
        f"{kib * _IDLE_SHOWN / 1024:.0f} MiB for {_IDLE_SHOWN}"
    )


def _allow_descriptors() -> None:
    """Allow this process, and the server that it starts, as many descriptors as there may be."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
