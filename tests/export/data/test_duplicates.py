from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from ladle.export import Dataset
from ladle.export.data.duplicates import (
    count_duplicates,
    duplicates_note,
    labels_note,
    missing_labels_note,
)


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


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        (("caf\u00e9", "cafe\u0301"), r"'caf\xe9' and 'cafe\u0301'"),
        (("x", "x\u200b"), r"'x' and 'x\u200b'"),
        (("Yes", "no", "yes"), "'Yes' and 'yes'"),
        (("1", "1.0", "2"), "'1' and '1.0'"),
        (("a  b", "a b"), "'a  b' and 'a b'"),
    ],
)
def test_labels_that_look_alike_are_said(labels: tuple[str, ...], shown: str) -> None:
    note = labels_note(labels)
    assert note is not None
    assert note.endswith(shown)


def test_labels_that_differ_are_nothing_to_say() -> None:
    assert labels_note(("a", "b", "1", "10", "9007199254740992", "9007199254740993")) is None
    assert missing_labels_note(("a", "b")) is None


def test_labels_that_stand_for_a_missing_one_are_said() -> None:
    note = missing_labels_note(("cat", "nan", "None"))
    assert note is not None
    assert note.startswith("'nan' and 'None' among the labels")
