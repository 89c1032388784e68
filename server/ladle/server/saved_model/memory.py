"""Gives freed memory back to the system, which the C library's allocator would rather keep."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from ladle.server.core.machine import malloc


@cache
def keep_imports() -> None:
    """Take what is there now, such as TensorFlow's modules, out of all later garbage collections.

    To be called once TensorFlow is imported. Of its million objects none is ever garbage, and a
    collection that walks over them holds up every request for half a second.
    """
    gc.collect()
    gc.freeze()


def drop_graph(session: Any) -> None:
    """Free what Python has of a session's graph, which nothing is added to from now on.

    Callables can still be made: TensorFlow has the graph itself. Python has some objects for each
    operation, which refer to each other in circles. Each garbage collection would walk over those
    of all loaded versions, with Python's lock held. This one walks over these.
    """
    session._graph = _Dropped()
    gc.collect()


class _Dropped:
    """All that a session needs of its graph to make callables."""

    def _session_run_lock(self) -> AbstractContextManager[None]:
        return nullcontext()  # nothing changes the graph


def give_back() -> None:
    """Collect garbage, and return what the heap no longer uses to the system.

    Holds up requests for a moment.

    Without all of this a process that loads and unloads a model of 400 variables, 100 MB in all,
    has doubled after a dozen times, and with it stays as it is (benchmarks/memory.py).
    """
    gc.collect()
    malloc.trim()
