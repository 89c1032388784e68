"""Leaves single lines out of what libraries write to the standard error by themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def without_lines(is_left_out: Callable[[bytes], bool]) -> Iterator[None]:
    """Hold back what is written to the descriptor of the standard error, by any thread.

    At the end all of it is written, but for the lines that are left out. Meant for moments: if the
    process ended meanwhile, what was held back would be lost. Without effect where the system has
    no file in memory, or no standard error.
    """
    try:
        real = os.dup(_STDERR)
        held = os.memfd_create("stderr")
    except (AttributeError, OSError):
        yield
        return
    sys.stderr.flush()
    os.dup2(held, _STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, _STDERR)
        os.close(real)
        with os.fdopen(held, "rb") as file:
            file.seek(0)
            kept = b"".join(line for line in file if not is_left_out(line))
        if kept:
            os.write(_STDERR, kept)
