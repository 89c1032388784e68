"""The bytes that a stream's requests have reserved."""

from __future__ import annotations

import threading

from ladle.server.limits import ByteBudget


class Reserved:
    """Counts out what is left when the stream ends, and nothing twice. Thread-safe."""

    __slots__ = ("_budget", "_is_first", "_lock", "_nbytes", "_over")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._nbytes = 0
        self._is_first = True
        self._over = False

    def add(self, nbytes: int) -> bool:
        """Note bytes that the budget has counted in; returns whether they are the first."""
        with self._lock:
            if not self._over:
                self._nbytes += nbytes
                is_first, self._is_first = self._is_first, False
                return is_first
        self._budget.give_back(nbytes)
        return False

    def give_back(self, nbytes: int) -> None:
        """Count bytes out, unless the end of the stream has."""
        with self._lock:
            if self._over:
                return
            self._nbytes -= nbytes
        self._budget.give_back(nbytes)

    def give_all_back(self) -> None:
        """Count out what is left, as the stream is over."""
        with self._lock:
            self._over = True
            nbytes, self._nbytes = self._nbytes, 0
        self._budget.give_back(nbytes)
