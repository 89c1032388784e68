"""Threads that ask stores, some for each: so a store that stalls holds up nobody else."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

logger = logging.getLogger(__name__)

_Job: TypeAlias = "Callable[[], None]"


class Workers:
    """Runs jobs in threads, a bounded number for each key; the rest wait in order. Thread-safe.

    Threads end when there is nothing to do. Whoever submits bounds how many jobs wait.
    """

    def __init__(self, most: int, name: str) -> None:
        """Take the bound of each key's threads, and their name."""
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._waiting: dict[str, deque[_Job]] = {}
        self._threads: dict[str, int] = {}
        self._closed = False

    def submit(self, key: str, job: _Job) -> bool:
        """Have a job run soon; what it raises is logged. After `close` it is dropped. Never blocks.

        Returns False if the system has no room for a thread, and none runs that would take the job:
        it is dropped then, and never runs in the caller's thread, which may hold a lock.
        """
        with self._lock:
            if self._closed:
                return True
            running = self._threads.get(key, 0)
            self._waiting.setdefault(key, deque()).append(job)
            if running >= self._most:
                return True
            thread = threading.Thread(target=self._work, args=(key,), name=self._name, daemon=True)
            try:
                thread.start()  # it waits for the lock
            except RuntimeError:
                if running:
                    return True  # one that runs takes the job next
                del self._waiting[key]
                return False
            self._threads[key] = running + 1
            return True

    def close(self) -> None:
        """Begin no further job; returns at once."""
        with self._lock:
            self._closed = True
            self._waiting.clear()

    def _work(self, key: str) -> None:
        while True:
            with self._lock:
                jobs = self._waiting.get(key)
                if not jobs:
                    self._waiting.pop(key, None)
                    self._threads[key] -= 1
                    if not self._threads[key]:
                        del self._threads[key]
                    return
                job = jobs.popleft()
            try:
                job()
            except Exception:
                logger.exception("a look at a store failed")
            del job
