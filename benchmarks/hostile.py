"""What callers who mean harm cost good ones over the native transport: `benchmarks/hostile.py`.

A steady load of good requests is measured alone, and then beside each kind of harm. Printed are its
latencies, how many connections did harm, and what the server's process holds afterwards: memory,
threads and descriptors, which should be what they were. `--seconds 60` takes ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench import PREDICT
from harness import load, model
from process import ServerProcess

_TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(_TESTS))

from server.transport.native.http2 import (  # noqa: E402
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Connection,
    frame,
    headers,
    literal,
    message,
)

_GOOD_PER_S = 500
_IN_FLIGHT = 16
_AT_ONCE = 4
"""Threads that do harm."""
_HELD = 50
"""Connections that each of them keeps open, where harm is in keeping them."""
_LINGER_S = 0.5


def _begun(stream: int, **more: str) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, headers(PREDICT, **more))


def _sent(frames: bytes) -> Callable[[int], None]:
    """Return what sends these frames on a connection, and reads nothing."""

    def once(port: int) -> None:
        with contextlib.suppress(OSError), Connection(port) as connection:
            connection.send(frames)

    return once


def _held(frames: bytes) -> Callable[[int], None]:
    """Return what sends these frames on many connections, and keeps them open for a while."""

    def once(port: int) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(_HELD):
                with contextlib.suppress(OSError):
                    stack.enter_context(Connection(port)).send(frames)
            time.sleep(_LINGER_S)

    return once


def _streams(count: int) -> range:
    return range(1, 2 * count, 2)


def harms() -> dict[str, Callable[[int], None]]:
    """Return what does each kind of harm once, to the server on a port."""
    bomb = gzip.compress(bytes(64 << 20))
    packed = b"\1" + struct.pack(">I", len(bomb)) + bomb
    pieces = [packed[at : at + 16_000] for at in range(0, len(packed), 16_000)]
    table = b"\x40" + literal("x", "y" * 100)[1:] + b"\xbe" * 16_000
    request = message(model.one_image())
    return {
        "SETTINGS": _sent(frame(SETTINGS, 0, 0) * 20_000),
        "PING": _sent(frame(PING, 0, 0, b"12345678") * 20_000),
        "rapid resets": _sent(
            b"".join(
                _begun(number) + frame(RST_STREAM, 0, number, struct.pack(">I", 8))
                for number in _streams(2000)
            )
        ),
        "CONTINUATION": _sent(
            frame(HEADERS, 0, 1, headers(PREDICT))
            + frame(CONTINUATION, 0, 1, b"\0\x01a\x40" + b"x" * 64) * 2000
        ),
        "HPACK bombs": _sent(frame(HEADERS, END_HEADERS, 1, headers(PREDICT) + table)),
        "gzip bombs": _sent(
            _begun(1, grpc_encoding="gzip") + b"".join(frame(DATA, 0, 1, each) for each in pieces)
        ),
        "silent connections": _held(b""),
        "silent calls": _held(b"".join(_begun(number) for number in _streams(4))),
        "stalled uploads": _held(_begun(1) + frame(DATA, 0, 1, message(bytes(8000))[:4000])),
        "unread answers": _held(
            frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
            + b"".join(
                _begun(number) + frame(DATA, END_STREAM, number, request) for number in _streams(4)
            )
        ),
    }


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each kind of harm (default 3)")
    parser.add_argument("--only", default="", help="kinds with this text in their name")
    arguments = parser.parse_args()
    print(
        f"{'':20}{'good':>7}{'p50 ms':>8}{'p99 ms':>8}{'connections':>13}"
        f"{'MiB':>7}{'threads':>9}{'descriptors':>13}"
    )
    with tempfile.TemporaryDirectory() as folder:
        model.publish(Path(folder, "model", "1"))
        flags = ("--transport=native", "--grpc_compressed_requests")
        with ServerProcess("ladle", str(Path(folder, "model")), *flags) as server:
            load.send(server.port, PREDICT, [model.one_image()], 2000, _IN_FLIGHT)
            _measure(server, "nobody", None, arguments.seconds)
            for name, harm in harms().items():
                if arguments.only in name:
                    _measure(server, name, harm, arguments.seconds)
            time.sleep(2 * _LINGER_S)
            _measure(server, "nobody", None, arguments.seconds)


def _measure(
    server: ServerProcess, name: str, harm: Callable[[int], None] | None, seconds: int
) -> None:
    stop = threading.Event()
    counts = [0] * _AT_ONCE

    def harming(number: int) -> None:
        while harm is not None and not stop.is_set():
            harm(server.port)
            counts[number] += 1

    threads = [
        threading.Thread(target=harming, args=(number,), daemon=True) for number in range(_AT_ONCE)
    ]
    for thread in threads:
        thread.start()
    request = [model.one_image()]
    given = server.port, PREDICT, request, _IN_FLIGHT
    with load.Sending(*given, seconds=seconds, per_s=_GOOD_PER_S) as sending:
        try:
            good = sending.result()
        except load.Failed:
            good = load.Load(0, seconds, [float("inf")], 0)
    stop.set()
    for thread in threads:
        thread.join()
    status = Path(f"/proc/{server.pid}/status").read_text()
    held = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
    print(
        f"{name:20}{good.requests:7}{good.percentile_ms(50):8.1f}{good.percentile_ms(99):8.1f}"
        f"{sum(counts):13}{int(held['VmRSS'].split()[0]) / 1024:7.0f}"
        f"{int(held['Threads']):9}{descriptors:13}",
        flush=True,
    )


if __name__ == "__main__":
    main()
