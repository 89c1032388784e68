"""What differs between two answers: by dtype, by rule, and by row."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.server.core.rollout.comparing import OutputDifference, OutputRule, compare

SCORES = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], np.float32)
OTHER = np.array([[0.2, 0.6, 0.2], [0.4, 0.5, 0.1], [0.2, 0.2, 0.6]], np.float32)


def one(
    a: NDArray[np.generic], b: NDArray[np.generic], rule: OutputRule | None = None
) -> OutputDifference:
    compared = compare({"y": a}, {"y": b}, {} if rule is None else {"y": rule})
    (found,) = compared.outputs
    assert (compared.rows, compared.off_rows) == (found.rows, found.off_rows)
    assert (compared.first_off is None) == (not found.off_rows)
    return found


def test_rows_of_classes_agree_by_their_top_class() -> None:
    found = one(SCORES, OTHER)
    assert (found.rows, found.off_rows, found.class_rows, found.top_changed) == (3, 1, 3, 1)
    assert found.measured == 9
    assert found.max_abs == pytest.approx(0.2, rel=1e-5)
    assert found.sum_abs == pytest.approx(0.6, rel=1e-5)
    assert found.max_rel == pytest.approx(0.5, rel=1e-5)


def test_a_rule_with_a_tolerance_decides_instead() -> None:
    assert one(SCORES, OTHER, OutputRule(atol=0.15, has_tolerance=True)).off_rows == 1
    assert one(SCORES, OTHER, OutputRule(atol=0.05, has_tolerance=True)).off_rows == 2
    assert one(SCORES, OTHER, OutputRule(rtol=1.0, has_tolerance=True)).off_rows == 0
    both = OutputRule(atol=0.05, has_tolerance=True, top_k=2)
    assert one(SCORES, OTHER, both).off_rows == 2


def test_the_top_class_may_be_among_several() -> None:
    scores = np.array([[3.0, 2.0, 1.0, 0.0]])
    other = np.array([[0.5, 2.0, 1.0, 0.0]])
    ranks = [one(scores, other, OutputRule(top_k=k)).off_rows for k in (1, 2, 3)]
    assert ranks == [1, 1, 0]
    equal = np.zeros((1, 4))  # the first of equal ones is on top
    assert one(scores, equal, OutputRule(top_k=1)).off_rows == 0


def test_floats_that_are_no_classes_agree_within_a_thousandth() -> None:
    prices = np.array([[100.0], [200.0]])
    assert one(prices, prices * 1.0005).off_rows == 0
    assert one(prices, prices * [[1.0], [1.01]]).off_rows == 1
    assert one(prices, prices).class_rows == 0
    assert one(np.array(1.0), np.array(3.0)).off_rows == 1


def test_numbers_that_are_finite_in_one_only_are_counted_and_not_measured() -> None:
    a = np.array([[1.0], [np.nan], [np.inf], [-np.inf], [np.nan], [2.0]])
    b = np.array([[1.0], [np.nan], [np.inf], [np.inf], [0.0], [np.inf]])
    found = one(a, b)
    assert (found.off_rows, found.not_finite, found.measured, found.max_abs) == (3, 3, 1, 0.0)


@pytest.mark.parametrize(
    ("other", "problem", "detail"),
    [
        (SCORES.astype(np.float64), "dtype", "expected float32 [3, 3], got float64 [3, 3]"),
        (SCORES[:, :2], "shape", "expected float32 [3, 3], got float32 [3, 2]"),
    ],
)
def test_what_has_another_form_is_off_in_every_row(
    other: NDArray[np.generic], problem: str, detail: str
) -> None:
    found = one(SCORES, other)
    assert (found.problem, found.detail, found.off_rows) == (problem, detail, 3)


def test_an_output_that_is_missing_counts_and_one_more_does_not() -> None:
    rows, off_rows, first_off, found = compare({"y": SCORES}, {"z": SCORES}, {})
    assert (rows, off_rows, first_off, found[0].problem) == (3, 3, 0, "missing")
    assert compare({"y": SCORES}, {"y": SCORES, "z": SCORES}, {}).off_rows == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([b"cat", b"dog"], object), np.array([b"cat", b"cow"], object)),
        (np.array([1, 2], np.int64), np.array([1, 3], np.int64)),
        (np.array([[True, True], [False, True]]), np.array([[True, True], [True, True]])),
    ],
)
def test_what_is_no_float_is_equal_or_not(a: NDArray[np.generic], b: NDArray[np.generic]) -> None:
    found = one(a, b)
    assert (found.off_rows, found.measured, found.class_rows) == (1, 0, 0)
    assert one(a, a).off_rows == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.complex64, np.float64])
def test_each_kind_of_float_is_measured(dtype: type) -> None:
    a: NDArray[Any] = np.array([[1.0], [2.0]]).astype(dtype)
    b: NDArray[Any] = np.array([[1.0], [4.0]]).astype(dtype)
    found = one(a, b)
    assert (found.off_rows, found.measured, found.max_abs, found.max_rel) == (1, 2, 2.0, 0.5)


def test_rows_that_differ_in_several_outputs_count_once() -> None:
    mine = {"a": np.array([1, 2, 3]), "b": np.array([1, 2, 3])}
    theirs = {"a": np.array([1, 0, 3]), "b": np.array([1, 0, 0])}
    assert compare(mine, theirs, {})[:3] == (3, 2, 1)


def test_no_rows_and_very_wide_rows() -> None:
    assert one(SCORES[:0], SCORES[:0]).off_rows == 0
    wide = np.zeros((2, 3, 200_000), np.float32)
    other = wide.copy()
    other[1, 2, 199_999] = 5.0
    found = one(wide, other)
    assert (found.off_rows, found.measured, found.max_abs, found.sum_abs) == (1, wide.size, 5, 5)


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(st.lists(FLOATS, min_size=2, max_size=2), min_size=1, max_size=5))
def test_an_answer_agrees_with_itself_whatever_is_in_it(rows: list[list[float]]) -> None:
    array = np.array(rows, np.float32)
    found = one(array, array.copy())
    assert (found.off_rows, found.max_abs, found.not_finite, found.top_changed) == (0, 0, 0, 0)


@given(
    st.lists(FLOATS, min_size=1, max_size=5), st.lists(FLOATS, min_size=5, max_size=5), st.data()
)
def test_amounts_are_finite_and_the_same_both_ways(
    left: list[float], right: list[float], data: st.DataObject
) -> None:
    a = np.array(left, np.float32)[:, None]
    b = np.array(right[: len(left)], np.float32)[:, None]
    there, back = one(a, b), one(b, a)
    assert there.max_abs == back.max_abs
    assert 0 <= there.max_rel <= 2 + 1e-9
    assert np.isfinite([there.max_abs, there.sum_abs, there.sum_rel]).all()
    assert there.not_finite == back.not_finite
