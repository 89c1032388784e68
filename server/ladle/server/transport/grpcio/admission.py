"""How many calls may be under way, and which of them end before their time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from ladle.server.core.errors import DeadlineExceeded, ServingError, Unavailable
from ladle.server.transport.threads import SteadyPool

# Callers send their message with the headers; what takes longer is a slow network.
MESSAGE_TIMEOUT_S = 30.0
# If all places are taken, a call that has sent nothing for so long loses its place to a new one.
_LEAST_S = 1.0


class Admitted(Protocol):
    """A call that has its thread."""

    def cut_off(self, error: ServingError) -> None:
        """End the call, with the status where it can still have one; no effect on an ended one."""

    def stop(self) -> None:
        """Note that the server is going to stop."""


class Admission:
    """Counts calls and knows those that have a thread. Thread-safe."""

    def __init__(
        self,
        most: int,
        refused: Callable[[ServingError, int], None] = lambda error, count: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what bounds the calls.

        Args:
            most: how many there may be at a time.
            refused: is called with the refusal of each call that is ended here, and with 1.
            clock: the time, in seconds.
        """
        self._most = most
        self._refused = refused
        self._clock = clock
        self._lock = threading.Lock()  # guards what follows
        self._waiting = 0  # for a thread
        self._calls: set[Admitted] = set()
        self._silent: dict[Admitted, float] = {}  # since when, the oldest first
        self._is_stopping = False

    @property
    def under_way(self) -> int:
        """How many calls have come and are not over."""
        return self._waiting + len(self._calls)

    def refusal(self) -> ServingError | None:
        """Return why a call that has just come can't be taken; None if it can.

        Without a place for it, the call that has been silent for longest gives its own.
        """
        with self._lock:
            if self.under_way < self._most:
                return None
            silent = self._pop_silent(self._clock() - _LEAST_S)
        if silent is not None:
            self._end(silent, _late(_LEAST_S))
            return None
        error = self._no_place()
        self._refused(error, 1)
        return error

    def come(self) -> None:
        """Note that a call has come, and waits for a thread."""
        with self._lock:
            self._waiting += 1

    def begin(self, call: Admitted) -> None:
        """Note that a call has its thread, and waits for its first message."""
        now = self._clock()
        with self._lock:
            self._waiting -= 1
            self._calls.add(call)
            self._silent[call] = now
            is_stopping = self._is_stopping
        if is_stopping:
            call.stop()

    def received(self, call: Admitted) -> None:
        """Note that a call has sent its first message."""
        with self._lock:
            self._silent.pop(call, None)

    def ended(self, call: Admitted) -> None:
        """Give up the place of a call that is over for its caller: its answer has been sent."""
        with self._lock:
            self._calls.discard(call)
            self._silent.pop(call, None)

    def end_silent(self) -> None:
        """End the calls that have sent no message for MESSAGE_TIMEOUT_S."""
        before = self._clock() - MESSAGE_TIMEOUT_S
        while True:
            with self._lock:
                call = self._pop_silent(before)
            if call is None:
                return
            self._end(call, _late(MESSAGE_TIMEOUT_S))

    def stop(self) -> None:
        """Say to all calls, and to those that begin later, that the server is going to stop."""
        with self._lock:
            self._is_stopping = True
            calls = list(self._calls)
        for call in calls:
            call.stop()

    def end_all(self, error: ServingError) -> None:
        """End every call that is under way with a status."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cut_off(error)

    def _pop_silent(self, before: float) -> Admitted | None:
        """Return the oldest call that was silent before then. The lock is held."""
        for call, since in self._silent.items():
            if since > before:
                break
            del self._silent[call]
            return call
        return None

    def _end(self, call: Admitted, error: ServingError) -> None:
        call.cut_off(error)
        self._refused(error, 1)

    def _no_place(self) -> Unavailable:
        error = Unavailable(
            f"{self._most} calls are under way already (128 for each of --grpc_max_threads); "
            "try again later"
        )
        error.retry_after_s = 0.1
        error.reason = "calls"
        return error


class Room(SteadyPool):
    """The threads of some methods, and their places, which calls keep until answers are sent."""

    def __init__(self, max_threads: int, name: str, admission: Admission) -> None:
        """`admission` counts the calls."""
        super().__init__(max_threads, name)
        self.admission = admission

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread serve a call; grpcio's polling thread calls this."""
        self.admission.come()
        return super().submit(fn, *args, **kwargs)


def _late(seconds: float) -> DeadlineExceeded:
    error = DeadlineExceeded(f"expected a request message within {seconds:g} s, got none")
    error.reason = "no_message"
    return error
