"""Labels of versions, in a file beside them: `ladle models label` writes it, a server heeds it."""

from __future__ import annotations

import json
from pathlib import Path

from ladle.protos.versions import MAX_VERSION

LABELS_NAME = ".ladle-labels.json"
"""Its name in a model's base path; no version, because it is no number."""
_MAX_BYTES = 1 << 16


def read_labels(base_path: Path) -> dict[str, int]:
    """Return the versions that labels stand for under `base_path`; none where there is no file.

    Raises:
        ValueError: The file is no object of labels and version numbers, or too large.
        OSError: It can't be read.
    """
    try:
        with (base_path / LABELS_NAME).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(text) > _MAX_BYTES:
        raise ValueError(f"expected at most {_MAX_BYTES} bytes")
    try:
        labels = json.loads(text)
    except RecursionError:
        raise ValueError("expected labels and version numbers") from None
    if not isinstance(labels, dict) or not all(
        type(number) is int and 0 <= number <= MAX_VERSION for number in labels.values()
    ):
        raise ValueError("expected labels and version numbers")
    return labels
