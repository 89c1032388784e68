"""Which number the next version gets, and how large one is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ladle.protos.files.versions import MAX_VERSION, version_of


def next_version(names: Iterable[str]) -> int:
    """Return the highest version among `names` plus one; 1 where there is none.

    Raises:
        OverflowError: The highest is the last that 64 bits hold.
    """
    versions = (version_of(name) for name in names)
    highest = max((version for version in versions if version is not None), default=0)
    if highest == MAX_VERSION:
        raise OverflowError(f"version {MAX_VERSION} is the highest that there can be")
    return highest + 1


def size_bytes(folder: Path) -> int:
    """Return how many bytes the files in `folder` have; those that vanish meanwhile have none."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
