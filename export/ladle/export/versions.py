"""Which number the next version gets."""

from __future__ import annotations

from collections.abc import Iterable

from ladle.protos.versions import MAX_VERSION, version_of


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
