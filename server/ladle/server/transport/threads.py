"""Threads for calls, on a system that may have no room for another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor


class SteadyPool(ThreadPoolExecutor):
    """A pool that goes on with the threads it has where no other can be started.

    grpcio hands calls to its pools in the thread that polls for all of them; what is raised there
    ends the polling, and so every call of the server. One thread is there from the beginning.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        """Start the first thread; `name` is what the names of all begin with."""
        super().__init__(max_threads, thread_name_prefix=name)
        super().submit(int)

    def _adjust_thread_count(self) -> None:
        # Called when the work is in the queue already. It is the standard library's own part:
        # where it has another name one day, this has no effect.
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise
