"""How long a thread may keep Python's lock while others wait for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHORT_S = 0.00005
"""A request passes the lock on three or four times, and may wait so long each time."""


class ShortSlices:
    """Lets threads keep Python's lock for a short time only, while something asks for that.

    By Python's default a thread that computes keeps it for 5 ms, which each request beside it
    waits for at each change of thread. The time is the whole process's: only who owns the process
    should change it. Thread-safe.
    """

    def __init__(
        self,
        read: Callable[[], float] = sys.getswitchinterval,
        change: Callable[[float], None] = sys.setswitchinterval,
    ) -> None:
        """Take how the time is read and changed, in seconds."""
        self._read = read
        self._change = change
        self._lock = threading.Lock()
        self._holders = 0
        self._usual_s = 0.0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep slices short meanwhile; several threads may ask for it at the same time."""
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                self._usual_s = self._read()
                self._change(min(self._usual_s, SHORT_S))
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._change(self._usual_s)
