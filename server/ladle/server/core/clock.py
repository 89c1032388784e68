"""Time as an input, so that tests decide when it passes."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds, and waiting on a condition for at most so many of them."""

    def now(self) -> float:
        """Return seconds that never go back; only differences mean anything."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on `condition`, held by the caller; False if the time passed first."""


class MonotonicClock:
    """The clock that everything but tests uses."""

    now = staticmethod(time.monotonic)
    wait = staticmethod(threading.Condition.wait)
