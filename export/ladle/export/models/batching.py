"""What a server with default flags does about batches of a version, as far as its files say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ladle.protos.files.batching_file import OWN_FILE, says_off
from ladle.protos.files.regular_file import read_bytes

_MAX_BYTES = 1 << 20  # as a server takes

ALL = "(all signatures)"


def batching_of(version: Path, card: Mapping[str, Any]) -> dict[str, str]:
    """Return how requests to each signature run, and why, by the signature's name.

    Args:
        version: the version's folder.
        card: its model card, as JSON has it; empty if there is none.

    The graph is not read: a server runs a signature alone whose graph has state, whatever the card
    says.
    """
    try:
        own = read_bytes(version / OWN_FILE, _MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return {ALL: f"does not load: {OWN_FILE} can't be read: {error}"}
    else:
        if says_off(own):
            return {ALL: f"alone: {OWN_FILE} says off"}
        return {ALL: f"vouched: {OWN_FILE} in the version's folder"}
    independent = set(card.get("row_independent_signatures") or ())
    names = sorted({*(card.get("signatures") or ()), *independent})
    return {
        name: (
            "vouched: the model card says that its rows are independent"
            if name in independent
            else "on trial: nobody vouches for it"
        )
        for name in names or [ALL]
    }
