from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from ladle.export import Dataset
from ladle.export.data.duplicates import count_duplicates, duplicates_note


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_held_out_examples_that_are_trained_on_are_counted(dtype: DTypeLike) -> None:
    train = np.arange(60).reshape(5, 3, 4).astype(dtype)
    test = np.concatenate([train[3:], train[3:4], train[:1] + 100])
    assert count_duplicates(train, test) == 3
    assert count_duplicates(train, train[:0]) == 0
    assert count_duplicates(train, np.asfortranarray(train)) == 5


def test_a_note_says_how_many_and_none_is_none(
    arrays: dict[str, NDArray[np.uint8]],
) -> None:
    assert duplicates_note(Dataset.from_arrays("small", arrays)) is None
    arrays["x_test"] = np.concatenate([arrays["x_train"][:2], arrays["x_test"][:4]])
    note = duplicates_note(Dataset.from_arrays("small", arrays))
    assert note is not None
    assert note.startswith("2 of 6 held-out examples are also among those to train on")
