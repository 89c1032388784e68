"""How many files and connections the process may have open."""

from __future__ import annotations

import resource

FOR_PROBES = 64
"""Connections past the bound, on which only probes are answered."""

# More are of no use, and some libraries walk through all that there could be.
_MOST = 1 << 20
# What is not HTTP's: models' files, logs, gRPC's connections.
_FOR_OTHERS = 1024


def raise_limit() -> int:
    """Raise the soft limit of open descriptors as far as the hard one lets it; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _MOST if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft  # a system that has a lower limit than it says
    return wanted


def affordable_connections(most: int, limit: int) -> int:
    """Return how many connections HTTP may have: `most`, or what a limit of descriptors leaves.

    Beside them there is place for `FOR_PROBES` more.
    """
    return max(1, min(most, limit - min(_FOR_OTHERS, limit // 2) - FOR_PROBES))
