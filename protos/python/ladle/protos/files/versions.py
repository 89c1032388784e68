"""Versions and labels in a model's base path: the rules that publishers and servers share."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from ladle.protos.files.regular_file import read_bytes

MAX_VERSION = 2**63 - 1
_MODEL_FILES = frozenset(("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb", "model.tflite"))

LABELS_NAME = ".ladle-labels.json"
"""The file of labels in a model's base path. `ladle models label` writes it, servers read it.
Since its name is no number, it is no version."""
FOLDER_NAME = ".ladle-folder"
"""In a copy of a base path, as a server keeps of one in a store: the name that the folder has."""
HIDDEN_PREFIX = ".ladle-hidden-"
"""Before the number of a version that servers shall pass over for a while."""
_MAX_LABELS_BYTES = 1 << 16

# absl::SimpleAtoi, which upstream's file_system_storage_path_source.cc uses: ASCII digits, with a
# sign and white space around. Python's int() takes more: underscores, digits of other scripts.
_VERSION = re.compile(r"\s*\+?([0-9]+)\s*", re.ASCII)


class Place(Protocol):
    """A folder, or its like in a store."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    @property
    def parent(self) -> object:
        """What holds it."""

    def __truediv__(self, name: str) -> object:
        """Return the place of that name in it."""


def version_of(name: str) -> int | None:
    """Return the version number that the name of a file or folder stands for, or None.

    Leading zeros are ignored. A negative number, or one beyond 64 bits, is no version.
    """
    match = _VERSION.fullmatch(name)
    # 64 bits take 19 digits; Python refuses to read numbers of thousands.
    if match is None or len(match[1].lstrip("0")) > 19:
        return None
    version = int(match[1].lstrip("0") or "0")
    return version if version <= MAX_VERSION else None


def read_labels(base_path: Path) -> dict[str, int]:
    """Return the version of each label under `base_path`; empty if there is no file.

    Raises:
        ValueError: The file is not a JSON object of labels and version numbers, or is too large.
        OSError: The file can't be read.
    """
    try:
        text = read_bytes(base_path / LABELS_NAME, _MAX_LABELS_BYTES)
    except FileNotFoundError:
        return {}
    return parse_labels(text)


def parse_labels(text: bytes) -> dict[str, int]:
    """Return the version of each label that a file of labels holds.

    Raises:
        ValueError: It is not a JSON object of labels and version numbers, or is too large.
    """
    if len(text) > _MAX_LABELS_BYTES:
        raise ValueError(f"expected at most {_MAX_LABELS_BYTES} bytes")
    try:
        labels = json.loads(text.removeprefix(codecs.BOM_UTF8))
    except RecursionError:
        raise ValueError("expected labels and version numbers") from None
    if not isinstance(labels, dict) or not all(
        type(number) is int and 0 <= number <= MAX_VERSION for number in labels.values()
    ):
        raise ValueError("expected labels and version numbers")
    return labels


def without_versions(base_path: Place, names: Collection[str]) -> str:
    """Return what is wrong with a base path that holds no version.

    Args:
        base_path: the folder, or the place in a store.
        names: what lies in it.
    """
    if not _MODEL_FILES.intersection(names):
        return (
            f"no versions under base path {base_path}: "
            "expected a folder whose name is a number, such as 1"
        )
    if version_of(base_path.name) is None:
        advice = f"move it to a folder whose name is a number, such as {base_path / '1'}"
    else:
        advice = f"give its parent, {base_path.parent}"
    return f"base path {base_path} is a model itself, expected the folder of its versions: {advice}"
