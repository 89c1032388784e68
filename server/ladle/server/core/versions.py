"""Which versions of a model are wanted: folder names, and the version policy over them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

_MAX_VERSION = (1 << 63) - 1
# What the upstream server reads as a number: surrounding white space, a plus sign and leading
# zeros are fine. A minus sign parses there too, but no servable may have a negative version.
_VERSION = re.compile(r"\s*\+?([0-9]{1,40})\s*", re.ASCII)


@dataclass(frozen=True)
class Latest:
    """The highest `count` versions."""

    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"latest: expected at least 1 version, got {self.count}")


@dataclass(frozen=True)
class All:
    """Every version that is there."""


@dataclass(frozen=True)
class Specific:
    """Just these versions."""

    versions: frozenset[int]


VersionPolicy: TypeAlias = Latest | All | Specific


def version_of(folder_name: str) -> int | None:
    """Return the version that a child of a base path stands for; None if it stands for none."""
    match = _VERSION.fullmatch(folder_name)
    if match is None:
        return None
    version = int(match[1])
    return version if version <= _MAX_VERSION else None


def aspired(folder_names: Iterable[str], policy: VersionPolicy) -> dict[int, str]:
    """Return the versions that the policy wants, each with its folder's name.

    Of two names for one number (`1` and `001`) the one later in sorted order counts.
    """
    folders: dict[int, str] = {}
    for name in sorted(folder_names):
        version = version_of(name)
        if version is not None:
            folders[version] = name
    match policy:
        case All():
            wanted = set(folders)
        case Specific(versions):
            wanted = folders.keys() & versions
        case Latest(count):
            wanted = set(sorted(folders)[-count:])
    return {version: folders[version] for version in sorted(wanted)}
