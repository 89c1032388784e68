"""A process's memory, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def resident(pid: int, field: str) -> int:
    """Return bytes of a process's memory: VmRSS now, or VmHWM at the most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak(pid: int) -> None:
    """Have VmHWM begin anew, with what there is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
