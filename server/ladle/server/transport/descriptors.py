"""How many files and connections the process may have open."""

from __future__ import annotations

import os
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


def affordable_grpc_connections(http: int, limit: int) -> int:
    """Return how many connections gRPC may have beside HTTP's, under a limit of descriptors.

    A quarter of what HTTP leaves is for models' files and logs.
    """
    return max(1, (limit - http - FOR_PROBES) * 3 // 4)


class SpareDescriptors:
    """Descriptors that are open for nothing, to be given up where the process can have no other.

    Without them a caller of one port, whose connections take all descriptors, would keep an
    orchestrator's probes from another. Lives in one thread.
    """

    def __init__(self, count: int) -> None:
        """Take as many as can be had, and `count` at most."""
        self._count = count
        self._held: list[int] = []
        self.refill()

    def refill(self) -> None:
        """Take back what was given up, as far as it can be had."""
        while len(self._held) < self._count:
            try:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return

    def give_up_one(self) -> bool:
        """Close one, for what needs it more; False if there is none."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def close(self) -> None:
        """Close all, for good."""
        self._count = 0
        while self.give_up_one():
            pass
