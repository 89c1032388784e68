"""Metadata that a caller sends with calls: names and values as gRPC and HTTP take them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

CallMetadata: TypeAlias = "Mapping[str, str]"
"""Values by name, such as the key by which a roll-out splits: `{"x-user-id": "7"}`."""

PRIORITY = "ladle-priority"
"""How urgent a request is to ladle's server: high, normal or low."""
_PRIORITIES = ("high", "normal", "low")
_NAME = re.compile(r"[a-z0-9_.-]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_MAX_BYTES = 4096
# What the client itself sends, and what belongs to gRPC.
_OWN = ("grpc-", "ladle-", "authorization", "content-type", "te", "user-agent")


def checked(metadata: CallMetadata | None) -> tuple[tuple[str, str], ...]:
    """Return metadata with names in lower case, sorted; nothing for None.

    Raises:
        TypeError: It is no mapping of text to text.
        ValueError: A name or a value can't be sent.
    """
    if not metadata:
        return ()
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: expected names and values, got {type(metadata).__name__}")
    found: dict[str, str] = {}
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"metadata: expected text, got {name!r}: {value!r}")
        lower = name.lower()
        if not _NAME.fullmatch(lower) or lower.endswith("-bin"):
            raise ValueError(
                f"metadata: expected a name of letters, digits and -_. that does not end with "
                f"-bin, got {name!r}"
            )
        if lower == PRIORITY and value not in _PRIORITIES:
            raise ValueError(f"metadata: {name}: expected high, normal or low, got {value[:100]!r}")
        if lower != PRIORITY and (lower.startswith(_OWN[:2]) or lower in _OWN):
            raise ValueError(f"metadata: {name!r} is not the caller's to send")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"metadata: {name}: expected printable ASCII without spaces around it, got "
                f"{value[:100]!r}; urllib.parse.quote makes it of any text"
            )
        if lower in found:
            raise ValueError(f"metadata: expected each name once, got {name!r} twice")
        found[lower] = value
    size = sum(len(name) + len(value) for name, value in found.items())
    if size > _MAX_BYTES:
        raise ValueError(f"metadata: expected at most {_MAX_BYTES} bytes, got {size}")
    return tuple(sorted(found.items()))
