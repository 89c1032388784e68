"""`ladle serve --workers=N` as it stands, and what its processes have used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

_START_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Workers:
    """Serves a model by N processes, on all cores; a context manager."""

    def __init__(self, base_path: Path, transport: str, count: int) -> None:
        """Start them, and wait until all have loaded the model."""
        flags = ("--model_name=bench", f"--model_base_path={base_path}", f"--transport={transport}")
        ports = ("--port=auto", "--rest_api_port=auto", f"--workers={count}")
        tensors = "--enable_serialization_as_tensor_content"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ladle.cli", "serve", *flags, *ports, tensors],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port, self._http = self._listening(), self._listening()
        deadline = time.monotonic() + _START_S
        while self._ready() < count:
            if time.monotonic() > deadline:
                raise SystemExit("the workers do not come up")
            time.sleep(0.2)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def cpu_s(self) -> float:
        """Return the CPU that the supervisor and the workers have used so far."""
        return sum(map(_cpu_s, self._pids()))

    def own_bytes(self) -> int:
        """Return the memory that no two of them share."""
        return sum(map(_anonymous_bytes, self._pids()))

    def _pids(self) -> list[int]:
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [pid, *map(int, children.split())]

    def _listening(self) -> int:
        assert self._process.stdout is not None
        found = re.search(r"listening on \S+:(\d+)", self._process.stdout.readline())
        if found is None:
            raise SystemExit("the workers do not start")
        return int(found[1])

    def _ready(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/status.json") as answer:
            server = json.load(answer)["server"]
        return int(server["workers"]["ready"] if "workers" in server else server["ready"])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _anonymous_bytes(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0
