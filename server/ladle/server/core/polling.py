"""A thread that does something again and again, whatever goes wrong in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ladle.server.core.clock import Clock, MonotonicClock

logger = logging.getLogger(__name__)


class Poller:
    """Calls a function at its interval. Order of calls: `start` and `stop`, from any thread."""

    def __init__(
        self,
        step: Callable[[], None],
        *,
        name: str,
        wait_s: float,
        clock: Clock | None = None,
    ) -> None:
        """Take what to do; what it raises is logged, and the next call comes all the same.

        Args:
            step: the function.
            name: what is polled, for the thread's name and the log.
            wait_s: from the end of a call to the next, and before the first.
            clock: the time.
        """
        self._step = step
        self._name = name
        self._wait_s = wait_s
        self._clock = clock or MonotonicClock()
        self._wake = threading.Condition()
        self._stopped = False

    def start(self) -> None:
        """Begin, in a thread."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Begin no further call; returns at once."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopped:
                    self._clock.wait(self._wake, self._wait_s)
                if self._stopped:
                    return
            try:
                self._step()
            except Exception:
                logger.exception("a look at the %s failed", self._name)
