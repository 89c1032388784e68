"""A compared server: its processes, all on one core, and what they use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from typing import IO

from process import SERVER_CPU

_MARK = "LADLE_BENCHMARK_SERVER"
_START_TIMEOUT_S = 120
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CannotStart(Exception):
    """A server did not come up; the message says what it said last."""


class PinnedServer:
    """Starts a server that listens on `port`, and ends all of its processes; a context manager.

    They are found by a mark in their environment, since some servers start daemons.
    """

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        """Start it; `command` is completed by the port, which is a free one."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.name = name
        self._log = log
        self._mark = uuid.uuid4().hex
        with log.open("wb") as output:
            self._process = _start([*command, str(self.port)], output, self._mark)

    def __enter__(self) -> PinnedServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """End its processes."""
        self._signal(signal.SIGCONT)
        while self._signal(signal.SIGKILL):  # until none has had a child meanwhile
            self._process.poll()
            time.sleep(0.1)
        self._process.wait()

    def wait(self) -> None:
        """Wait until it listens.

        Raises:
            CannotStart: It ended, or took too long.
        """
        until = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                if self._process.poll() is not None:
                    raise CannotStart(f"it ended: {self.last_words()}") from None
                if time.monotonic() > until:
                    raise CannotStart(
                        f"nothing listens after {_START_TIMEOUT_S} s: {self.last_words()}"
                    ) from None
            time.sleep(0.2)

    def pause(self) -> None:
        """Keep it from using the core until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        """Return the CPU seconds that its living processes have used."""
        ticks = 0
        for pid in self._pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS_PER_S

    def last_words(self) -> str:
        """Return the last line of what it has printed."""
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def _signal(self, number: signal.Signals) -> int:
        pids = self._pids()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return len(pids)

    def _pids(self) -> list[int]:
        mark = f"{_MARK}={self._mark}".encode()
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdecimal() and mark in _environment(folder)
        ]


def _start(command: list[str], output: IO[bytes], mark: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", _MARK: mark}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        # A session of its own: where the kernel shares the CPU out by session, each gets alike.
        start_new_session=True,
        preexec_fn=_on_the_servers_cpu,
    )


def _on_the_servers_cpu() -> None:
    os.sched_setaffinity(0, {SERVER_CPU})


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
