"""The thread of a run that reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Semaphore, Thread
from typing import NamedTuple

from ladle.batch.rows import Part

# Chunks that are read and not yet used up.
_CHUNKS_AHEAD = 2


class Read(NamedTuple):
    """A chunk that has been read."""

    part: Part | None
    """None at the end."""


class Reading:
    """The thread that reads, never more than some chunks ahead."""

    def __init__(self, parts: Iterator[Part], tell: Callable[[Read | BaseException], None]) -> None:
        self._parts = parts
        self._tell = tell
        self._permits = Semaphore(_CHUNKS_AHEAD)
        self._is_stopped = Event()
        self._thread = Thread(target=self._read, name="predict-reader", daemon=True)
        self._thread.start()

    def allow_another(self) -> None:
        """Have one chunk more read."""
        self._permits.release()

    def stop(self) -> None:
        """End the thread, and wait until it has left the input alone."""
        self._is_stopped.set()
        self._permits.release()
        self._thread.join()

    def _read(self) -> None:
        try:
            while True:
                self._permits.acquire()
                if self._is_stopped.is_set():
                    return
                part = next(self._parts, None)
                self._tell(Read(part))
                if part is None:
                    return
        except BaseException as error:
            self._tell(error)
