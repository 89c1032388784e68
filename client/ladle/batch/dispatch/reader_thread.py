"""The thread that reads the input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Semaphore, Thread
from typing import NamedTuple

from ladle.batch.rows import Part

# How many chunks may be read and not used up.
CHUNKS_AHEAD = 2


class ChunkRead(NamedTuple):
    """The reader has read a chunk."""

    chunk: Part | None
    """None at the input's end."""


class ReaderThread:
    """Reads chunks in a thread of its own, at most CHUNKS_AHEAD ahead."""

    def __init__(
        self, chunks: Iterator[Part], notify: Callable[[ChunkRead | BaseException], None]
    ) -> None:
        """Begin to read; `notify` is called in the thread for each chunk, the end, or an error."""
        self._chunks = chunks
        self._notify = notify
        self._permits = Semaphore(CHUNKS_AHEAD)
        self._is_stopped = Event()
        self._thread = Thread(target=self._read, name="predict-reader", daemon=True)
        self._thread.start()

    def allow_another(self) -> None:
        """Let the thread read one chunk more."""
        self._permits.release()

    def stop(self) -> None:
        """End the thread; blocks until the thread has left the input alone."""
        self._is_stopped.set()
        self._permits.release()
        self._thread.join()

    def _read(self) -> None:
        try:
            while True:
                self._permits.acquire()
                if self._is_stopped.is_set():
                    return
                chunk = next(self._chunks, None)
                self._notify(ChunkRead(chunk))
                if chunk is None:
                    return
        except BaseException as error:
            self._notify(error)
