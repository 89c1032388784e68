"""Which folders of a base path are versions: what a publisher and a server must agree on."""

from __future__ import annotations

import re

MAX_VERSION = 2**63 - 1

# absl::SimpleAtoi, which upstream's file_system_storage_path_source.cc uses: ASCII digits, with a
# sign and white space around. Python's int() takes more: underscores, digits of other scripts.
_VERSION = re.compile(r"\s*\+?([0-9]+)\s*", re.ASCII)


def version_of(name: str) -> int | None:
    """Return the version that a file or folder called `name` is to a server, or None.

    Leading zeros count for nothing; what is negative or beyond 64 bits is no version.
    """
    match = _VERSION.fullmatch(name)
    # 64 bits take 19 digits; Python refuses to read numbers of thousands.
    if match is None or len(match[1].lstrip("0")) > 19:
        return None
    version = int(match[1].lstrip("0") or "0")
    return version if version <= MAX_VERSION else None
