"""The standard output and error: what is written there, whatever has become of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from ladle.server.monitoring.logs import configure, log_stream, utc

# Reads lines that are no log's, and writes each as a JSON object. A process of its own, because
# the last words of one that aborts would be lost with a thread of it. It imports next to nothing.
_LINES_TO_JSON = r"""
import json, re, sys, time
LEVELS = {"I": "info", "W": "warning", "E": "error", "F": "critical"}
WORKER = {"worker": int(sys.argv[1])} if sys.argv[1:] else {}
LEVEL = re.compile(r"(?:[0-9: .-]{1,40}: )?([IWEF])(?:[0-9]{4})? ")
for line in iter(lambda: sys.stdin.buffer.readline(65536), b""):
    text = line.decode(errors="backslashreplace").rstrip()
    if not text:
        continue
    now = time.time()
    found = LEVEL.match(text)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    event = {
        "time": f"{whole}.{int(now % 1 * 1000):03d}Z",
        "level": LEVELS[found[1]] if found else "info",
        "logger": "stderr",
        **WORKER,
        "message": text,
    }
    try:
        sys.stdout.buffer.write(json.dumps(event).encode() + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        pass
"""


class _Output:
    """The standard output of the process, of which there is one."""

    own: TextIO | None = None
    """What `say` writes to, where others' lines on descriptor 1 go to the log."""


def open_standard_streams() -> None:
    """Make sure that there are a standard output and error: the process may have been given none.

    A file that is opened later would otherwise get their numbers, and what TensorFlow writes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(os.fdopen(number, "wb", closefd=False)))


def set_up_log(log_format: str, worker: int | None = None) -> None:
    """Have the log written to the standard error, as `text` or as `json`.

    As JSON, so is every other line that is written there or to the standard output: TensorFlow,
    gRPC and the operations of a model write some of their own. All of them end up in the log.
    Where no other process can be had to turn these, they stay as they are.

    Args:
        log_format: `text` or `json`.
        worker: the number of this process, where it is one of several.
    """
    stream: TextIO = sys.stderr
    if log_format == "json":
        with contextlib.suppress(OSError):
            stream = _turn_lines_to_json([] if worker is None else [str(worker)])
    configure(log_format, stream, worker)


def set_up_supervisor_log(log_format: str) -> None:
    """As `set_up_log`, in a process without TensorFlow and gRPC, whose children have its output."""
    configure(log_format, sys.stderr)


def say(text: str, *, log_format: str = "text") -> None:
    """Write a line to the standard output, in JSON where the log is; never raises.

    A reader who has gone, or a full disk, ends no server.
    """
    line = _event("info", text) if log_format == "json" else f"ladle: {text}"
    with contextlib.suppress(OSError, ValueError):
        print(line, file=_Output.own or sys.stdout, flush=True)


def complain(text: str, *, log_format: str = "text") -> None:
    """Write why the process ends to the standard error, in JSON where the log is; never raises."""
    line = _event("error", text) if log_format == "json" else f"ladle serve: {text}"
    with contextlib.suppress(OSError, ValueError):
        print(line, file=log_stream(), flush=True)


def _event(level: str, text: str) -> str:
    now = utc(time.time())
    return json.dumps({"time": now, "level": level, "logger": "ladle", "message": text})


def flush() -> None:
    """Write what is buffered, where it can be; never raises."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _turn_lines_to_json(arguments: list[str]) -> TextIO:
    """Put a process behind descriptors 1 and 2, and return a stream on what 2 was before.

    Raises:
        OSError: The system has no process or descriptor for it.
    """
    before, output = _copy_of(2), _copy_of(1)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LINES_TO_JSON, *arguments],
        stdin=subprocess.PIPE,
        stdout=before.fileno(),
        cwd=Path("/"),
        start_new_session=True,  # signals to the server are not for it: it ends after the last line
    )
    assert process.stdin is not None
    sys.stdout.flush()
    for number in (1, 2):
        os.dup2(process.stdin.fileno(), number)
    process.stdin.close()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # lines as they are printed, and whole
    _Output.own = output
    return before


def _copy_of(number: int) -> TextIO:
    """Return a stream on what a descriptor is now, whatever becomes of the descriptor."""
    copy = os.dup(number)
    return os.fdopen(copy, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
