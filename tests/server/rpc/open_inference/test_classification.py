"""The largest elements of each row, as texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.protos.model_card import ModelCard
from ladle.server.core.errors import InvalidArgument
from ladle.server.rpc.open_inference.classification import classified, labels_of

CARD = '{"format": 1, "labels": ["ant", "bee", "cat"]}'


def texts(array: NDArray[Any], count: int, *, card: str | None = CARD, batched: bool = True) -> Any:
    return [
        [text.decode() for text in row] if batched else row.decode()
        for row in classified("y", array, count, batched=batched, card=card).tolist()
    ]


def test_equal_values_come_by_index_and_no_number_comes_last() -> None:
    x = np.array([[0.2, 0.7, 0.7], [np.nan, 0.5, 0.1]], np.float32)
    assert texts(x, 2) == [
        ["0.700000:1:bee", "0.700000:2:cat"],
        ["0.500000:1:bee", "0.100000:2:cat"],
    ]
    assert texts(x, 9)[1] == ["0.500000:1:bee", "0.100000:2:cat", "nan:0:ant"]


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64"])
def test_integers_are_plain_to_their_limits(dtype: str) -> None:
    limits = np.iinfo(dtype)
    x = np.array([[limits.min, limits.max, 1]], dtype)
    assert texts(x, 3) == [[f"{limits.max}:1:bee", "1:2:cat", f"{limits.min}:0:ant"]]


def test_a_row_of_more_dimensions_is_one_and_has_no_labels() -> None:
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    assert texts(x, 1) == [["3.000000:3"]]
    assert texts(np.array([1.5, 2.5, 0.5], np.float32), 1, batched=False) == ["2.500000:1:bee"]


def test_rows_of_too_many_elements_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="expected at most 1000000 elements"):
        texts(np.zeros((1, 1_000_001), np.int8), 1)


@pytest.mark.parametrize(
    ("shape", "batched", "has_labels"),
    [
        ((-1, 3), True, True),
        ((3,), False, True),
        ((-1, 4), True, False),
        ((-1, 1, 3), True, False),
        (None, True, False),
    ],
)
def test_labels_go_with_an_output_of_one_element_for_each(
    shape: tuple[int, ...] | None, *, batched: bool, has_labels: bool
) -> None:
    assert bool(labels_of(CARD, "y", shape, batched=batched)) == has_labels
    assert labels_of(None, "y", shape, batched=batched) == ()


def test_labels_of_an_output_come_before_those_of_the_model() -> None:
    card = ModelCard(labels=("a", "b"), outputs={"y": {"labels": ["c", "d"]}, "z": {}}).to_json()
    assert labels_of(card, "y", (-1, 2), batched=True) == ("c", "d")
    assert labels_of(card, "z", (-1, 2), batched=True) == ("a", "b")
    assert labels_of(card, "y", (-1, 3), batched=True) == ()
