"""Has a version in the cache survive a power cut, without anybody waiting for the disk."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path


def sync_behind(folder: Path) -> None:
    """Bring a folder that was just renamed into place to the disk, in a thread; returns at once.

    Until that has ended a power cut may take some of it. Whoever takes the folder out of the cache
    checks its files, so nothing wrong is ever loaded: it is fetched again.
    """
    thread = threading.Thread(target=_sync, args=(folder,), name="download to disk", daemon=True)
    with suppress(RuntimeError):  # no room for a thread: the system writes it by itself, later
        thread.start()


def _sync(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_one(Path(parent, name))
        _sync_one(Path(parent))
    _sync_one(folder.parent)


def _sync_one(path: Path) -> None:
    with suppress(OSError):  # it was removed meanwhile, or the disk refuses
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
