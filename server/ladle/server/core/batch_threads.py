"""The threads that batches run in, and the machine beneath them."""

from __future__ import annotations

import contextlib
import os


def yield_to_readers() -> None:
    """Have this thread not interrupt, when it is woken, the one that reads from the network.

    On a core that both share it would go off with the first request of a burst.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
