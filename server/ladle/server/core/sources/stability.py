"""When a version's folder has come to rest: nobody seems to be writing into it any more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_MAX_DEPTH = 8
_MAX_ENTRIES = 100_000


class Look(NamedTuple):
    """What a folder looked like at one moment."""

    fingerprint: int
    """Differs once a name, a size or a time of change does."""
    newest_change_s: float
    """When anything in it changed last, in the file system's seconds since 1970."""


class Rest(NamedTuple):
    """How long a folder has looked the same."""

    look: Look
    since_s: float
    """The monotonic time of the first of the looks that were all alike."""
    seen_changing: bool
    """Whether an earlier look was different."""


def look_at(folder: Path) -> Look:
    """Return what the folder looks like now, with everything below it.

    Raises:
        OSError: Something vanished meanwhile, or can't be read, or there is far too much of it.
    """
    facts: list[tuple[str, int, int]] = []
    # The folder's own ctime is left out: a finished version that is renamed into place is at rest.
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
    return Look(hash(tuple(sorted(facts))), newest_ns / 1e9)


def observe(previous: Rest | None, look: Look, now_s: float) -> Rest:
    """Return how long the folder has been at rest, given one more look at it."""
    if previous is None:
        return Rest(look, now_s, seen_changing=False)
    if previous.look.fingerprint != look.fingerprint:
        return Rest(look, now_s, seen_changing=True)
    return previous


def is_settled(rest: Rest, settle_s: float, *, now_s: float, wall_s: float) -> bool:
    """Whether nothing has changed for `settle_s` seconds.

    The file system's own times are believed of a folder that was never seen to change, so that
    what has long been there waits for nothing; of another, only what was seen counts.

    Args:
        rest: what was observed.
        settle_s: how long is long enough.
        now_s: monotonic time, as in `rest`.
        wall_s: seconds since 1970.
    """
    if now_s - rest.since_s >= settle_s:
        return True
    return not rest.seen_changing and wall_s - rest.look.newest_change_s >= settle_s
