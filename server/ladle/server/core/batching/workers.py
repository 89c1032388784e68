"""The threads that run a version's batches: none at first, then as many as there is work for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from ladle.server.core.clock import Clock
from ladle.server.core.scheduling import yield_when_woken

Owner = TypeVar("Owner")
W = TypeVar("W")


class Workers(Generic[Owner, W]):
    """Threads that look for their owner's work, and do it, until there never will be any more.

    Only the threads hold the owner: it goes with the last reference, and not when garbage is
    collected.
    """

    def __init__(
        self,
        changed: threading.Condition,
        clock: Clock,
        find: Callable[[Owner, float], tuple[W | None, float | None]],
        do: Callable[[Owner, W], None],
        is_over: Callable[[Owner], bool],
    ) -> None:
        """Take what the threads do; each function gets the owner first.

        Args:
            changed: the lock around `find`, `is_over` and `wake`; notified of work.
            clock: what tells the time.
            find: returns what is to be done now or, if nothing is, when that changes by itself.
            do: does it; called without the lock, and must not raise.
            is_over: whether a thread that finds nothing is to end.
        """
        self._changed = changed
        self._clock = clock
        self._find = find
        self._do = do
        self._is_over = is_over
        self._threads: list[threading.Thread] = []
        self.idle = 0
        """How many of the threads wait for work."""

    def wake(self, owner: Owner, most: int) -> None:
        """Have a thread look for work: one that is idle or, if there are fewer than `most`, a new.

        The owner is always the same.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        if self.idle:
            self._changed.notify()
            return
        if len(self._threads) < most:
            thread = threading.Thread(target=self._work, args=(owner,), name="batch", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for more
                if not self._threads:
                    raise
                return  # the next thread to be done comes to it
            self._threads.append(thread)

    def join(self) -> None:
        """Block until all threads have ended; called without the lock."""
        for thread in self._threads:  # and those that join the list meanwhile
            thread.join()

    def _work(self, owner: Owner) -> None:
        yield_when_woken()
        while self._work_once(owner):
            pass

    def _work_once(self, owner: Owner) -> bool:
        """Do one thing; a call of its own, so that nothing of it is held on to while waiting."""
        with self._changed:
            work = self._wait_for_work(owner)
        if work is None:
            return False
        self._do(owner, work)
        return True

    def _wait_for_work(self, owner: Owner) -> W | None:
        while True:
            now = self._clock.now()
            work, until = self._find(owner, now)
            if work is not None:
                return work
            if self._is_over(owner):
                self._changed.notify_all()
                return None
            self.idle += 1
            self._clock.wait(self._changed, None if until is None else until - now)
            self.idle -= 1
