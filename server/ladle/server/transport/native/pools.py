"""Whose threads take what the thread that takes calls should not do itself."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import NamedTuple


class Pools(NamedTuple):
    """Two pools, for work and for waiting."""

    working: Executor
    """Handles calls with large requests, and those of blocking handlers."""
    waiting: Executor
    """Handles calls that wait for something, so that waiting keeps no thread from working."""
