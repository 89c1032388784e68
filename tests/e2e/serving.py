"""A real `ladle serve` in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from fakes import TIMEOUT_S

# TensorFlow's import alone takes long on a busy machine.
START_TIMEOUT_S = 6 * TIMEOUT_S


class ServerProcess:
    """Runs `ladle serve` on a free port, and stops it at the end of the `with` block."""

    def __init__(
        self, name: str, base_path: Path, *flags: str, python: str = sys.executable
    ) -> None:
        # A file, not a pipe: nobody reads a pipe while the server runs, and a full one stops it.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [
                *(python, *COMMAND[1:]),
                "--port=auto",
                f"--model_name={name}",
                f"--model_base_path={base_path}",
                *flags,
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        listening = re.search(r"listening on \S+:(\d+)", line)
        if listening is None:
            self._process.wait(START_TIMEOUT_S)
            log = self._read_log()
            self._close()
            raise AssertionError(f"the server did not start: {line}{log}")
        self.address = f"127.0.0.1:{listening[1]}"
        self.url = ""
        """Of the REST interface, where the flags ask for one."""
        if any(flag.startswith("--rest_api_port") for flag in flags):
            listening = re.search(r"listening on \S+:(\d+)", self._process.stdout.readline())
            assert listening is not None
            self.url = f"http://127.0.0.1:{listening[1]}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send the signal, and return the exit code and all that was logged."""
        self._process.send_signal(number)
        code = self._process.wait(START_TIMEOUT_S)
        return code, self._read_log()

    def read_output(self) -> str:
        """Return what the server printed since it said where it listens; blocks until it ends."""
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.communicate()
        self._log.close()

    def _read_log(self) -> str:
        self._log.seek(0)
        return self._log.read()


COMMAND = [sys.executable, "-m", "ladle.cli", "serve"]


def serve_in_vain(*flags: str) -> tuple[int, str]:
    """Run `ladle serve` where it can't start; return its exit code and what it says."""
    ended = subprocess.run(
        [*COMMAND, *flags], capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
    )
    return ended.returncode, ended.stderr
