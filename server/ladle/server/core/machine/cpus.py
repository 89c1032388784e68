"""The number of processors that are this process's part of the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


_sharing = 1


def share_among(processes: int) -> None:
    """Take note that this process is one of so many that do the same work on the machine.

    Call it before anything asks for `cpus`: the defaults of flags depend on it.
    """
    global _sharing
    _sharing = processes


def cpus() -> int:
    """Return how many processors are this process's part: at least 1.

    The affinity mask and the quota of the process's cgroups both limit the number. A quota of one
    and a half processors counts as two. Processes that `share_among` counts have equal parts.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return part(limited(allowed or 1, quotas(_CGROUPS, _OWN_CGROUPS)), _sharing)


def part(processors: int, processes: int) -> int:
    """Return the part of one of so many processes; halves and the like count as whole."""
    return max(1, math.ceil(processors / processes))


def limited(allowed: int, quotas: Iterator[float]) -> int:
    """Return the number of processors under an affinity mask of `allowed` and these quotas."""
    return max(1, math.ceil(min([allowed, *quotas])))


def quotas(root: Path, own: Path) -> Iterator[float]:
    """Yield the quotas, in processors, of a process's cgroup and of all cgroups above it.

    Args:
        root: where the cgroup file systems are mounted.
        own: the file that names the process's cgroups, one `hierarchy:controllers:path` a line.
    """
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            for folder in _upwards(root, path):
                quota, _, period = _text(folder / "cpu.max").partition(" ")
                yield from _ratio(quota, period)
        elif "cpu" in controllers.split(","):  # version 1
            for folder in _upwards(root / "cpu", path):
                quota = _text(folder / "cpu.cfs_quota_us")
                yield from _ratio(quota, _text(folder / "cpu.cfs_period_us"))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a cgroup and those above it; in a container only `root` may be there."""
    folder = root / path.strip("/")
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _ratio(quota: str, period: str) -> Iterator[float]:
    if quota.strip().isdigit() and period.strip().isdigit() and int(quota) and int(period):
        yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
