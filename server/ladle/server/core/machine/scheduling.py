"""How threads share the machine beneath them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def yield_when_woken() -> bool:
    """Have this thread, and those that it starts, not interrupt another when they are woken.

    On a core that they share, a thread that runs batches would go off with the first request of
    a burst, and one that reads from the network would stop a batch for each packet. Either is
    measured: a switch takes some microseconds, and the caches. Returns whether anything was
    changed: only Linux knows of it, and whoever has set another policy meant it.
    """
    with contextlib.suppress(AttributeError, OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            return True
    return False


@contextlib.contextmanager
def starting_such_as_yield() -> Iterator[None]:
    """Have the threads that start meanwhile not interrupt others; this thread stays as it is."""
    changed = yield_when_woken()
    try:
        yield
    finally:
        if changed:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
