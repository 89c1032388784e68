"""Reads regular files, in bounds, and never waits for anything else that has a file's name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

_LEAST_BYTES = 64 << 10


class NotRegularError(OSError):
    """A folder, FIFO, socket or device stands where a file is expected."""


class TooLargeError(ValueError):
    """A file has more bytes than it may have."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    A FIFO without a writer is not waited for, and a device is not read: both are refused.

    Raises:
        OSError: It can't be opened; NotRegularError if it is no regular file.
    """
    # Nothing of a device is done by opening it so, but for what its driver does in any case.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        raise NotRegularError(f"expected a regular file, got {_kind(mode)}")
    return os.fdopen(number, "rb")


def check_regular(path: str | os.PathLike[str]) -> None:
    """See that a path leads to a regular file, before another library opens it.

    Raises:
        OSError: It does not exist; NotRegularError if it is no regular file.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise NotRegularError(errno.EINVAL, f"expected a regular file, got {_kind(mode)}")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return what is in a regular file.

    Raises:
        OSError: It can't be read, or is no regular file.
        TooLargeError: It is larger.
    """
    with open_regular(path) as file:
        # Place for as much as there seems to be: some files have more than they say.
        expected = max(os.fstat(file.fileno()).st_size, _LEAST_BYTES)
        data = file.read(min(expected, max_bytes) + 1)
        if len(data) > expected:
            data += file.read(max_bytes + 1 - len(data))
    if len(data) > max_bytes:
        raise TooLargeError(f"expected at most {max_bytes} bytes")
    return data


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
