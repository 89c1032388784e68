"""What a model may be called."""

from __future__ import annotations

from pathlib import Path


def is_name(text: str) -> bool:
    """Whether a model can be called so: messages hold text in UTF-8, and folders any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text != ""


def unnameable(folder: Path) -> str:
    """Say why a folder is no model, where `is_name` refuses its name."""
    return f"{str(folder)!r}: expected a name in UTF-8, as requests have it"
