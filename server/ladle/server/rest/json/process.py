"""Large JSON is read and written in other processes, so that this one's threads go on.

Parsing holds Python's lock from the first byte to the last: 20 MB of JSON would hold up every
caller for seconds. A process also can be ended in the middle, at its caller's deadline.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from ladle.server.core.errors import Code, DeadlineExceeded, ServingError
from ladle.server.core.machine import malloc

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGE_BYTES = 1 << 20
"""From here on a message is worth a trip to another process: some 5 ms for each MB."""

# The interpreter of the process has this one's import path, whatever PYTHONPATH is.
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from ladle.server.rest.json.process import work; work()"
)
_LENGTH = struct.Struct("<Q")
_READ_AT_ONCE = 1 << 20


class JsonProcesses:
    """Processes that call functions of this package. Thread-safe.

    A process starts when it is first needed, and stays for later calls.
    """

    def __init__(self, most: int) -> None:
        """`most`: how many calls run at a time; others wait."""
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._idle: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def call(self, deadline: float, function: Callable[..., T], *arguments: Any) -> T:
        """Return what a function returns; blocks until then.

        Args:
            deadline: the monotonic time at which the call is given up, and its process ended.
            function: importable by its name, as are the types of its arguments and result.
            arguments: what it is called with.

        Raises:
            DeadlineExceeded: The deadline has passed.
            ServingError: As the function raises it; INTERNAL if the process ended in the middle,
                for instance because memory ran out.
        """
        if not self._free.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _too_late()
        try:
            process = self._take()
            if process is None:
                return function(*arguments)
            return self._call_in(process, deadline, function, arguments)
        finally:
            self._free.release()

    def close(self) -> None:
        """End the processes that are idle; one that still works ends with its call."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def _take(self) -> subprocess.Popen[bytes] | None:
        """Return an idle process or a new one; None where the system has none to give."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return _started()
        except OSError as error:
            logger.warning("large JSON is read in this process: no other can start: %s", error)
            return None

    def _call_in(
        self,
        process: subprocess.Popen[bytes],
        deadline: float,
        function: Callable[..., T],
        arguments: tuple[Any, ...],
    ) -> T:
        assert process.stdin is not None
        assert process.stdout is not None
        whole = False
        try:
            request = pickle.dumps((function, arguments), protocol=5)
            _send(process.stdin.fileno(), request, deadline)
            del request, arguments
            succeeded, result = pickle.loads(_receive(process.stdout.fileno(), deadline))
            whole = True
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise ServingError(
                "the process that reads large JSON ended early", Code.INTERNAL
            ) from error
        finally:
            if whole:
                self._give_back(process)
            else:
                _end(process)
        if not succeeded:
            code, message = result
            raise ServingError(message, code)
        outcome: T = result
        return outcome

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        _end(process)


def _started() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        start_new_session=True,  # Ctrl-C in a terminal is for the server alone
    )
    assert process.stdin is not None
    assert process.stdout is not None
    os.set_blocking(process.stdin.fileno(), False)
    os.set_blocking(process.stdout.fileno(), False)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def _send(file: int, message: bytes, deadline: float) -> None:
    for part in (_LENGTH.pack(len(message)), message):
        rest = memoryview(part)
        while rest:
            try:
                rest = rest[os.write(file, rest) :]
            except BlockingIOError:
                _wait(file, deadline, writing=True)


def _receive(file: int, deadline: float) -> bytes:
    (length,) = _LENGTH.unpack(_receive_exactly(file, _LENGTH.size, deadline))
    return _receive_exactly(file, length, deadline)


def _receive_exactly(file: int, nbytes: int, deadline: float) -> bytes:
    pieces: list[bytes] = []
    while nbytes:
        try:
            piece = os.read(file, min(nbytes, _READ_AT_ONCE))
        except BlockingIOError:
            _wait(file, deadline, writing=False)
            continue
        if not piece:
            raise EOFError
        nbytes -= len(piece)
        pieces.append(piece)
    return b"".join(pieces)


def _wait(file: int, deadline: float, *, writing: bool) -> None:
    poll = select.poll()
    poll.register(file, select.POLLOUT if writing else select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1e3):
        raise _too_late()


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the JSON was not read or written in time (--rest_api_timeout_in_ms)")


def work() -> None:
    """Answer calls on the standard input until it ends: the program of such a process."""
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := calls.read(_LENGTH.size):
        _answer(calls.read(_LENGTH.unpack(head)[0]), answers)
        malloc.trim()


def _answer(message: bytes, answers: IO[bytes]) -> None:
    function, arguments = pickle.loads(message)
    del message
    try:
        outcome = (True, function(*arguments))
    except ServingError as error:
        outcome = (False, (error.code, error.message))
    except Exception as error:  # whatever it is: this caller gets an error, and the next is served
        outcome = (False, (Code.INTERNAL, f"{type(error).__name__} while JSON was read"))
    del arguments
    pickled = pickle.dumps(outcome, protocol=5)
    answers.write(_LENGTH.pack(len(pickled)))
    answers.write(pickled)
    answers.flush()
