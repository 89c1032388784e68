"""The file in a version's folder that says how its requests are batched."""

from __future__ import annotations

OWN_FILE = "batching_params.pbtxt"
"""Its name: a BatchingParameters in text format, or the word `off`."""


def says_off(text: str) -> bool:
    """Whether the whole text is the word `off`, apart from comments: no batches at all."""
    words = " ".join(line.partition("#")[0] for line in text.splitlines())
    return words.strip() == "off"
