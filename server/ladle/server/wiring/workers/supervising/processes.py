"""Starts the processes of workers, and says how they ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping

# The interpreter of the process has this one's import path, whatever PYTHONPATH is.
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; "
    "from ladle.server.wiring.workers.serving.worker import main; main()"
)


def start(
    number: int, of: int, channel: socket.socket, passed: Mapping[str, socket.socket]
) -> subprocess.Popen[bytes]:
    """Start the process of a worker.

    Args:
        number: which one, from 1.
        of: how many there are; both are for who lists the processes.
        channel: its end of the control channel.
        passed: sockets that it gets, under the same descriptors.

    Raises:
        OSError: The system has no room for a process.
    """
    return subprocess.Popen(
        [
            sys.executable,
            *("-c", _PROGRAM.format(path=sys.path)),
            *("ladle-worker", f"{number}/{of}", str(channel.fileno())),
        ],
        stdin=subprocess.DEVNULL,
        pass_fds=[channel.fileno(), *(bound.fileno() for bound in passed.values())],
        start_new_session=True,  # signals of a terminal are for the supervisor, which hands them on
    )


def how_ended(status: int) -> str:
    """Return what a wait status means, to be put behind a name."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        why = " (the system may have run out of memory)" if number == signal.SIGKILL else ""
        return f"was ended by {name}{why}"
    return f"ended with status {os.waitstatus_to_exitcode(status)}"
