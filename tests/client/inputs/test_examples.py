"""tf.Examples from plain dicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ladle.client.errors import InvalidInput
from ladle.client.inputs.examples import as_examples, to_example, to_input
from ladle.client.prediction import Classification, Scored


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (1.5, "float_list", [1.5]),
        ([1.5, 2.0], "float_list", [1.5, 2.0]),
        (np.array([[1, 2], [3, 4]], np.float64), "float_list", [1.0, 2.0, 3.0, 4.0]),
        (np.float16(0.5), "float_list", [0.5]),
        (7, "int64_list", [7]),
        ([True, False], "int64_list", [1, 0]),
        (np.array([255], np.uint8), "int64_list", [255]),
        (-(1 << 63), "int64_list", [-(1 << 63)]),
        ("hé", "bytes_list", ["hé".encode()]),
        (b"\x00ends in nul\x00", "bytes_list", [b"\x00ends in nul\x00"]),
        (["a", b"b"], "bytes_list", [b"a", b"b"]),
        (["é", b"\xff\x00"], "bytes_list", ["é".encode(), b"\xff\x00"]),
        (np.array(["a", "bc"]), "bytes_list", [b"a", b"bc"]),
        ([], None, []),
    ],
)
def test_values_go_into_the_list_of_their_kind(
    values: Any, kind: str | None, expected: Any
) -> None:
    feature = to_example({"f": values}).features.feature["f"]
    assert feature.WhichOneof("kind") == kind
    if kind is not None:
        assert list(getattr(feature, kind).value) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 1], "expected all numbers, or all text or bytes, got int"),
        (None, "expected all numbers, or all text or bytes, got NoneType"),
        (1j, "expected numbers, text or bytes, got complex128"),
        (1e300, "too large for the float32"),
        (1 << 63, "expected integers of 64 bits"),
        ([[1], [1, 2]], "numpy can't make an array of it"),
        ("cut \ud83d", "expected text that UTF-8 can say"),
    ],
)
def test_what_an_example_can_not_hold_is_refused(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f'example 1: feature "f": .*{message}'):
        to_input([{"f": 1}, {"f": values}])


def test_infinity_is_a_float() -> None:
    feature = to_example({"f": [float("inf"), float("nan")]}).features.feature["f"]
    assert feature.float_list.value[0] == float("inf")


def test_one_dict_is_one_example() -> None:
    assert as_examples({"x": 1}) == [{"x": 1}]
    assert as_examples([{"x": 1}, {"x": 2}]) == [{"x": 1}, {"x": 2}]


def test_no_example_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected at least one, got none"):
        as_examples([])


def test_what_is_no_dict_is_refused() -> None:
    wrong: Any = [{"x": 1}, 3]
    with pytest.raises(InvalidInput, match="example 1: expected a dict of features, got int"):
        as_examples(wrong)


def test_a_context_goes_beside_the_examples() -> None:
    sent = to_input([{"x": 1}], {"country": "is"})
    assert sent.WhichOneof("kind") == "example_list_with_context"
    context = sent.example_list_with_context.context
    assert context.features.feature["country"].bytes_list.value[0] == b"is"


def test_the_best_classes_come_first() -> None:
    rows = ((Scored("a", 0.2, 0), Scored("b", 0.7, 1), Scored("c", 0.2, 2)),)
    classification = Classification(rows, "m", 1, "serving_default")
    assert [scored.label for scored in classification.top(2)[0]] == ["b", "a"]
    with pytest.raises(ValueError, match="k: expected 1 or more, got 0"):
        classification.top(0)
