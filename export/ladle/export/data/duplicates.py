"""Find what is there twice: examples that are held out and trained on, labels that look alike."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset, Examples, row_bytes

_ROWS_AT_A_TIME = 4096
_SHOWN = 5
_EXACT = 1 << 53
_MISSING = frozenset({"nan", "none", "null", "na", "n/a", "<na>"})


def count_duplicates(train: Examples, test: Examples) -> int:
    """Return how many of `test` are equal to one of `train`.

    Both are read some rows at a time; what is kept of each is a hash of 8 bytes.
    """
    return int(np.isin(_hashes(test), _hashes(train)).sum())


def duplicates_note(dataset: Dataset) -> str | None:
    """Return the sentence for the data's owner; None where no held-out example is a copy."""
    count = count_duplicates(dataset.x_train, dataset.x_test)
    if not count:
        return None
    return (
        f"{count} of {len(dataset.x_test)} held-out examples are also among those to train on:"
        " what is measured on them is too good; remove the copies"
    )


def labels_note(labels: Sequence[str]) -> str | None:
    """Return the sentence about labels that are probably one; None without such.

    They differ in capitals, in invisible or composed characters, or as numbers do in texts: "1" and
    "1.0".
    """
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_plain(label), []).append(label)
    several = [names for names in alike.values() if len(names) > 1]
    if not several:
        return None
    shown = "; ".join(" and ".join(map(ascii, names)) for names in several[:_SHOWN])
    more = f" and {len(several) - _SHOWN} more" if len(several) > _SHOWN else ""
    return f"labels that look alike are classes of their own: {shown}{more}"


def missing_labels_note(labels: Sequence[str]) -> str | None:
    """Return the sentence about labels that stand for a missing one; None without such."""
    found = [label for label in labels if label.casefold() in _MISSING]
    if not found:
        return None
    return (
        f"{' and '.join(map(repr, found))} among the labels: where that stands for no label, leave"
        " these rows out"
    )


def _plain(label: str) -> str:
    composed = unicodedata.normalize("NFKC", label).casefold()
    seen = "".join(c for c in composed if unicodedata.category(c)[0] != "C")
    text = " ".join(seen.split())
    try:
        number = float(text)
    except ValueError:
        return text
    # A float stands for several large integers, which are different labels.
    return repr(number) if abs(number) < _EXACT else text


def _hashes(examples: Examples) -> NDArray[np.uint64]:
    hashes = np.empty(len(examples), np.uint64)
    for start in range(0, len(examples), _ROWS_AT_A_TIME):
        rows = examples[start : start + _ROWS_AT_A_TIME]
        for offset in range(len(rows)):
            content = row_bytes(rows[offset : offset + 1])
            digest = hashlib.blake2b(content, digest_size=8).digest()
            hashes[start + offset] = int.from_bytes(digest, "little")
    return hashes
