"""The threads that look at base paths, of which any may hang on a file system that is gone."""

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

_Inbox: TypeAlias = "SimpleQueue[_Errand | None]"


class _Errand:
    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look
        self.over = False


class Lookers:
    """One thread that does what it is told, and others beside those that hang. Thread-safe.

    Nothing can be done about a call to a dead file system but to leave its thread behind.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._idle: _Inbox | None = None
        self._threads = 0
        self._closed = False

    @property
    def are_all_hanging(self) -> bool:
        """Whether so many threads were left behind that no other may join them."""
        return self._idle is None and self._threads >= _MOST_THREADS

    def do(self, look: Callable[[], None], patience_s: float) -> bool:
        """Have a thread look, and wait for it; False if it goes on after so many seconds.

        What `look` raises is logged.
        """
        errand = _Errand(look)
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
                _do(errand)
                return True
        inbox.put(errand)
        until = self._clock.now() + patience_s
        with self._changed:
            while not errand.over:
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
        while (errand := inbox.get()) is not None:
            _do(errand)
            with self._changed:
                errand.over = True
                self._changed.notify_all()
                if self._idle is not None or self._closed:
                    self._threads -= 1
                    return
                self._idle = inbox
            del errand


def _do(errand: _Errand) -> None:
    try:
        errand.look()
    except Exception:
        logger.exception("a look at a base path failed")
