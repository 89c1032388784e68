"""Find held-out examples that the training has seen: their accuracy says nothing."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset, Examples, row_bytes

_ROWS_AT_A_TIME = 4096


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


def _hashes(examples: Examples) -> NDArray[np.uint64]:
    hashes = np.empty(len(examples), np.uint64)
    for start in range(0, len(examples), _ROWS_AT_A_TIME):
        rows = examples[start : start + _ROWS_AT_A_TIME]
        for offset in range(len(rows)):
            content = row_bytes(rows[offset : offset + 1])
            digest = hashlib.blake2b(content, digest_size=8).digest()
            hashes[start + offset] = int.from_bytes(digest, "little")
    return hashes
