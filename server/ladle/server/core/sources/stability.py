"""Whether a version's folder is stable: nobody seems to be writing into it any more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_MAX_DEPTH = 8
_MAX_ENTRIES = 100_000


class FolderScan(NamedTuple):
    """What a folder held at one moment."""

    fingerprint: int
    """Differs once a name, a size or a time of change does."""
    newest_change_s: float
    """When anything in it changed last, in the file system's seconds since 1970."""


class Stability(NamedTuple):
    """How long a folder has held the same."""

    scan: FolderScan
    since_s: float
    """The monotonic time of the first scan with the same fingerprint as the last one."""
    seen_changing: bool
    """Whether an earlier scan had another fingerprint."""


def scan_folder(folder: Path) -> FolderScan:
    """Return what the folder holds now, with everything below it.

    Raises:
        OSError: Something vanished meanwhile, or can't be read, or there is far too much of it.
    """
    facts: list[tuple[str, int, int]] = []
    # The folder's own ctime is left out: a finished version that is renamed into place is stable.
    newest_ns = os.stat(folder).st_mtime_ns
    pending = [(os.fspath(folder), "", 0)]
    while pending:
        path, prefix, depth = pending.pop()
        if depth > _MAX_DEPTH or len(facts) > _MAX_ENTRIES:
            raise OSError(f"{folder}: expected at most {_MAX_ENTRIES} files, {_MAX_DEPTH} deep")
        with os.scandir(path) as children:
            for child in children:
                status = child.stat()
                name = f"{prefix}{child.name}"
                # A copy that keeps the old mtimes can't keep the old ctimes.
                changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
                newest_ns = max(newest_ns, changed_ns)
                if child.is_dir():
                    pending.append((child.path, f"{name}/", depth + 1))
                    facts.append((name, -1, 0))
                else:
                    facts.append((name, status.st_size, changed_ns))
    return FolderScan(hash(tuple(sorted(facts))), newest_ns / 1e9)


def observe(previous: Stability | None, scan: FolderScan, now_s: float) -> Stability:
    """Return how long the folder has been stable, given one more scan."""
    if previous is None:
        return Stability(scan, now_s, seen_changing=False)
    if previous.scan.fingerprint != scan.fingerprint:
        return Stability(scan, now_s, seen_changing=True)
    return previous


def is_stable(stability: Stability, stable_for_s: float, *, now_s: float, wall_s: float) -> bool:
    """Whether nothing has changed for `stable_for_s` seconds.

    If a folder has not changed since its first scan, its own times of change decide too: a version
    that has long been there need not wait. Otherwise only the scans count.

    Args:
        stability: what was observed.
        stable_for_s: how long is long enough.
        now_s: monotonic time, as in `rest`.
        wall_s: seconds since 1970.
    """
    if now_s - stability.since_s >= stable_for_s:
        return True
    return not stability.seen_changing and wall_s - stability.scan.newest_change_s >= stable_for_s
