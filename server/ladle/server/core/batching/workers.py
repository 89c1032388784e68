"""The threads that run a version's batches: none at first, then as many as there is work for."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar

from ladle.server.core.clock import Clock
from ladle.server.core.machine.scheduling import yield_when_woken

W = TypeVar("W")


class WorkSource(Protocol[W]):
    """What workers take their work from."""

    def next_work(self, now: float) -> tuple[W | None, float | None]:
        """Return what is to be done now. If nothing is, return the time when that changes.

        The lock must be held.
        """

    def do(self, work: W) -> None:
        """Do the work. The lock must not be held. Must not raise."""

    def is_over(self) -> bool:
        """Whether a thread that finds no work is to end. The lock must be held."""


class Workers(Generic[W]):
    """Threads that take work from a source, and do it, until the source is over.

    Only the threads hold the source: it is freed with its last reference, and not when garbage is
    collected.
    """

    def __init__(self, changed: threading.Condition, clock: Clock) -> None:
        """Start no thread yet.

        Args:
            changed: its lock guards the source and this object; notified when there is work.
            clock: tells the time, and waits.
        """
        self._changed = changed
        self._clock = clock
        self._threads: list[threading.Thread] = []  # guarded by the lock of `changed`
        self.idle = 0
        """How many of the threads wait for work. Guarded by the lock of `changed`."""

    def wake(self, source: WorkSource[W], most: int) -> None:
        """Have a thread look for work: an idle one or, if there are fewer than `most`, a new one.

        The lock must be held. The source is the same in each call.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        if self.idle:
            self._changed.notify()
            return
        if len(self._threads) < most:
            thread = threading.Thread(target=self._work, args=(source,), name="batch", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for more
                if not self._threads:
                    raise
                return  # the next thread that is done takes the work
            self._threads.append(thread)

    def join(self) -> None:
        """Block until all threads have ended. The lock must not be held."""
        for thread in self._threads:  # and those that are started meanwhile
            thread.join()

    def _work(self, source: WorkSource[W]) -> None:
        yield_when_woken()
        while self._work_once(source):
            pass

    def _work_once(self, source: WorkSource[W]) -> bool:
        """Do one thing; a call of its own, so that nothing of it is held on to while waiting."""
        with self._changed:
            work = self._wait_for_work(source)
        if work is None:
            return False
        source.do(work)
        return True

    def _wait_for_work(self, source: WorkSource[W]) -> W | None:
        """Return the next work, or None if there never will be any. The lock must be held."""
        while True:
            now = self._clock.now()
            work, until = source.next_work(now)
            if work is not None:
                return work
            if source.is_over():
                self._changed.notify_all()
                return None
            self.idle += 1
            self._clock.wait(self._changed, None if until is None else until - now)
            self.idle -= 1
