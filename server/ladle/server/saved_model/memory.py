"""Gives freed memory back to the system, which the C library's allocator would rather keep."""

from __future__ import annotations

import gc
from functools import cache

from ladle.server.core.machine import malloc


@cache
def keep_imports() -> None:
    """Take what is there now, such as TensorFlow's modules, out of all later garbage collections.

    To be called once TensorFlow is imported. Of its million objects none is ever garbage, and a
    collection that walks over them holds up every request for half a second.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Collect garbage, and return what the heap no longer uses to the system.

    Holds up requests for some milliseconds. The graph of a closed session is garbage that refers
    to itself in circles, and holds memory of TensorFlow's that the collector does not know of.

    Without all of this a process that loads and unloads a model of 400 variables, 100 MB in all,
    has doubled after a dozen times, and with it stays as it is (benchmarks/memory.py).
    """
    gc.collect()
    malloc.trim()
