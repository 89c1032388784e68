"""Version numbers, as TensorFlow Serving reads them off the names in a model's base path."""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_VERSION = 2**63 - 1

# absl::SimpleAtoi, which upstream's file_system_storage_path_source.cc uses: ASCII digits, with a
# sign and white space around. Python's int() takes more: underscores, digits of other scripts.
_VERSION = re.compile(r"\s*\+?([0-9]+)\s*", re.ASCII)


def version_of(name: str) -> int | None:
    """Return the version that a file or folder called `name` is to a server, or None.

    Leading zeros count for nothing; what is negative or beyond 64 bits is no version.
    """
    match = _VERSION.fullmatch(name)
    if match is None:
        return None
    version = int(match[1])
    return version if version <= MAX_VERSION else None


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
