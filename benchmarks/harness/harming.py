"""What does harm to a server, and what the server's process holds after it."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from process import ServerProcess

_TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(_TESTS))

from server.transport.native.harms import Harm  # noqa: E402
from server.transport.native.http2 import Connection  # noqa: E402

LINGER_S = 0.5
"""How long a connection is kept, where harm is in keeping it."""
PYTHON_RESTS_S = 10
RESTING = f"""
import ctypes, signal
# Called as Python's own, sleep keeps the lock, and no thread of Python's goes on.
signal.signal(signal.SIGUSR1, lambda *_: ctypes.PyDLL(None).sleep({PYTHON_RESTS_S}))
"""
"""What the server's Python has to run before, so that `python_rests` can stop it."""
_HELD = 50
"""Connections that are kept at a time."""

Once = Callable[[ServerProcess], None]
"""Does harm once."""


def of_callers(harm: Harm) -> Once:
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
                time.sleep(LINGER_S)

    return once


def of_all(each: list[Once]) -> Once:
    """Return what does harm of any of these kinds."""
    return lambda server: random.choice(each)(server)


def stopped(server: ServerProcess) -> None:
    """Stop the process for a moment, and let it go on for a second."""
    os.kill(server.pid, signal.SIGSTOP)
    time.sleep(0.2)
    os.kill(server.pid, signal.SIGCONT)
    time.sleep(1)


def python_rests(server: ServerProcess) -> None:
    """Have the process run no Python for ten seconds, and then for a second."""
    os.kill(server.pid, signal.SIGUSR1)
    time.sleep(PYTHON_RESTS_S + 1)


def no_descriptors(server: ServerProcess) -> None:
    """Take all descriptors, and come for more; those who are connected don't need any."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    least = held_by(server.pid).descriptors + 8
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (least, before[1]))
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 1))
        time.sleep(LINGER_S)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)


def handshakes(server: ServerProcess) -> None:
    """Begin handshakes, and never go on."""
    with contextlib.ExitStack() as stack:
        for _ in range(_HELD):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", server.port), 1)
                stack.enter_context(connection).sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        time.sleep(LINGER_S)


@dataclass(frozen=True)
class Held:
    """What a process holds."""

    mib: float
    threads: int
    descriptors: int

    def __str__(self) -> str:
        return f"{self.mib:.0f} MiB, {self.threads} threads, {self.descriptors} descriptors"


def held_by(pid: int) -> Held:
    """Return what a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    held = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Held(int(held["VmRSS"].split()[0]) / 1024, int(held["Threads"]), descriptors)
