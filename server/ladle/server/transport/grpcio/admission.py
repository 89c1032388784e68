"""Which calls are taken: so many at a time, and each has to send its first message in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from ladle.server.core.errors import DeadlineExceeded, ServingError, Unavailable

# Callers send their message with the headers; what takes longer is a slow network.
MESSAGE_TIMEOUT_S = 30.0
# Where there is no place left, a call that has sent nothing for so long makes room for the next.
_LEAST_S = 1.0


class Admitted(Protocol):
    """A call that may be ended before its first message has come."""

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        """End the call with a status; without effect once it has ended."""


class Admission:
    """Counts the calls under way. Thread-safe."""

    def __init__(
        self,
        most: int,
        refused: Callable[[ServingError], None] = lambda _: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what bounds the calls.

        Args:
            most: how many there may be at a time.
            refused: hears of each call that is ended here.
            clock: the time, in seconds.
        """
        self._most = most
        self._refused = refused
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._calls: set[Admitted] = set()
        self._silent: dict[Admitted, float] = {}  # since when, the oldest first

    @property
    def under_way(self) -> int:
        """How many calls have been taken and have not ended."""
        return len(self._calls)

    def admit(self, call: Admitted) -> bool:
        """Take a call that has just come, or end it; return whether it was taken.

        `ended` has to be called when it is over, whether it was taken or not.
        Without a place for it, the call that has been silent for longest gives its own.
        """
        now = self._clock()
        silent: Admitted | None = None
        with self._lock:
            if len(self._calls) >= self._most:
                silent = self._pop_silent(now - _LEAST_S)
            taken = len(self._calls) < self._most or silent is not None
            if taken:
                self._calls.add(call)
                self._silent[call] = now
        if silent is not None:
            self._end(silent, _late(_LEAST_S))
        if not taken:
            self._end(call, self._no_place())
        return taken

    def received(self, call: Admitted) -> None:
        """Note that a call has sent its first message."""
        with self._lock:
            self._silent.pop(call, None)

    def ended(self, call: Admitted) -> None:
        """Give up the place of a call that is over."""
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

    def end_all(self, error: ServingError) -> None:
        """End every call that is under way with a status."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.finish(None, error)

    def _pop_silent(self, before: float) -> Admitted | None:
        """Return the oldest call that was silent before then. The lock is held."""
        for call, since in self._silent.items():
            if since > before:
                break
            del self._silent[call]
            return call
        return None

    def _end(self, call: Admitted, error: ServingError) -> None:
        call.finish(None, error)
        self._refused(error)

    def _no_place(self) -> Unavailable:
        error = Unavailable(
            f"{self._most} calls are under way already (128 for each of --grpc_max_threads); "
            "try again later"
        )
        error.retry_after_s = 0.1
        error.reason = "calls"
        return error


def _late(seconds: float) -> DeadlineExceeded:
    error = DeadlineExceeded(f"expected a request message within {seconds:g} s, got none")
    error.reason = "no_message"
    return error
