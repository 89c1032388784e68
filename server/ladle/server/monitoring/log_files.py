"""Files of records that grow in turn: each up to a size, and no more than so many of them."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """How much may be kept."""

    max_file_bytes: int = 64 << 20
    """A file that has reached it is followed by another."""
    max_files: int = 10
    """Past it the oldest goes, once there is something in the newest."""


class RotatingFiles:
    """Writes records to `PREFIX-TIME-NUMBER.tfrecord`, one file after the other.

    Not thread-safe. Nobody else can read the files: they hold what callers have sent.
    """

    def __init__(
        self, prefix: str, rotation: Rotation, now: Callable[[], float] = time.time
    ) -> None:
        """Take the start of the files' paths; nothing is made before the first record."""
        self._folder, self._name = os.path.split(prefix)
        self._rotation = rotation
        self._now = now
        self._file: BinaryIO | None = None
        self._path = Path(prefix)
        self._outdated: list[Path] = []
        self._size = 0
        self._number = 0

    def write(self, record: bytes) -> None:
        """Append a framed record, and hand it to the system.

        Raises:
            OSError: It could not be written, and no part of it is kept; the next one goes to
                another file.
        """
        if self._file is None or self._size >= self._rotation.max_file_bytes:
            self._file = self._next_file()
        try:
            self._file.write(record)
            self._file.flush()
        except OSError:
            self.close()
            self._take_back()
            raise
        self._size += len(record)
        if self._outdated:
            self._remove_outdated()

    def close(self) -> None:
        """Close the file; a later record goes to another."""
        file, self._file = self._file, None
        if file is not None:
            # What is in its buffer can't be written either, where that was the trouble.
            with contextlib.suppress(OSError):
                file.close()

    def _next_file(self) -> BinaryIO:
        self.close()
        os.makedirs(self._folder, exist_ok=True)
        # Looked for first: where that fails no file is made, or their number would have no bound.
        known = log_files(Path(self._folder, self._name))
        time_text = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._now()))
        if known:
            # Names tell which file is the oldest, so none may come before those that there are,
            # though the clock was set back.
            newest_time, newest_number = known[-1].stem.rsplit("-", 2)[1:]
            if newest_time >= time_text:
                time_text = newest_time
                self._number = max(self._number, int(newest_number))
        while True:
            self._number += 1
            name = f"{self._name}-{time_text}-{self._number:05d}.tfrecord"
            path = Path(self._folder, name)
            try:
                opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:  # another process logs there too
                continue
            self._path, self._size = path, 0
            self._outdated = known[: max(0, len(known) + 1 - self._rotation.max_files)]
            return os.fdopen(opened, "wb")

    def _take_back(self) -> None:
        """Leave no part of a record, and no file without one."""
        with contextlib.suppress(OSError):
            if self._size:
                os.truncate(self._path, self._size)
            else:
                self._path.unlink()

    def _remove_outdated(self) -> None:
        failures = []
        for path in self._outdated:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                failures.append(error)
        if failures:
            logger.warning(
                "%d old request logs can't be removed, the first: %s", len(failures), failures[0]
            )
        self._outdated = []


def log_files(prefix: Path) -> list[Path]:
    """Return the files of a prefix, the oldest first."""
    named = re.compile(re.escape(prefix.name) + r"-(\d{8}T\d{6})-(\d{5,18})\.tfrecord", re.ASCII)
    found = ((named.fullmatch(path.name), path) for path in prefix.parent.iterdir())
    return [path for _, _, path in sorted((m[1], int(m[2]), path) for m, path in found if m)]
