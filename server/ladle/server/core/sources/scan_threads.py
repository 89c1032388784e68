"""Threads that scan base paths. Any of them may hang on a file system that is gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

from ladle.server.core.clock import Clock

logger = logging.getLogger(__name__)

# More threads than models with a base path of their own should ever hang.
_MOST_THREADS = 1000

_Inbox: TypeAlias = "SimpleQueue[_ScanJob | None]"


class _ScanJob:
    def __init__(self, scan: Callable[[], None]) -> None:
        self.scan = scan
        self.done = False


class ScanThreads:
    """One thread that runs scans, and a new one after each that hangs. Thread-safe.

    A call to a dead file system can't be ended: its thread is left behind.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._idle: _Inbox | None = None
        self._threads = 0
        self._closed = False

    @property
    def are_all_hanging(self) -> bool:
        """Whether so many threads were left behind that no other may join them."""
        return self._idle is None and self._threads >= _MOST_THREADS

    def run(self, scan: Callable[[], None], patience_s: float) -> bool:
        """Run a scan in a thread and wait for it; False if it goes on after `patience_s` seconds.

        What `scan` raises is logged.
        """
        job = _ScanJob(scan)
        with self._changed:
            inbox, self._idle = self._idle, None
            self._threads += inbox is None
        if inbox is None:
            inbox = SimpleQueue()
            thread = threading.Thread(
                target=self._work, args=(inbox,), name="base path", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system has no room for more
                with self._changed:
                    self._threads -= 1
                _run(job)
                return True
        inbox.put(job)
        until = self._clock.now() + patience_s
        with self._changed:
            while not job.done:
                remaining_s = until - self._clock.now()
                if remaining_s <= 0:
                    return False
                self._clock.wait(self._changed, remaining_s)
        return True

    def close(self) -> None:
        """End the thread, and those that hang once they come back; returns at once."""
        with self._changed:
            self._closed = True
            if self._idle is not None:
                self._idle.put(None)

    def _work(self, inbox: _Inbox) -> None:
        while (job := inbox.get()) is not None:
            _run(job)
            with self._changed:
                job.done = True
                self._changed.notify_all()
                if self._idle is not None or self._closed:
                    self._threads -= 1
                    return
                self._idle = inbox
            del job


def _run(job: _ScanJob) -> None:
    try:
        job.scan()
    except Exception:
        logger.exception("the scan of a base path failed")
