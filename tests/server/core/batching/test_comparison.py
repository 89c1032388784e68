from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from ladle.server.core.batching.comparison import all_vary, difference

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def compared(alone: Any, together: Any, dtype: Any = np.float32) -> str | None:
    return difference([{"y": np.array(alone, dtype)}], [{"y": np.array(together, dtype)}])


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_rounding_is_no_difference(dtype: Any) -> None:
    epsilon = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    assert compared([1.0, 3.0], [1.0 + epsilon, 3.0], dtype) is None
    assert compared([1.0, 3.0], [1.2, 3.0], dtype) is not None


def test_what_differs_and_by_how_much_is_said() -> None:
    assert compared([1, 2], [1, 2.5]) == (
        "output 'y' was 2 alone and 2.5 in a batch, a difference of 0.5 where rounding explains "
        "0.000216"
    )


def test_a_number_near_zero_has_the_rounding_of_its_column() -> None:
    assert compared([[1e-7, 5.0], [10.0, 6.0]], [[2e-7, 5.0], [10.0, 6.0]]) is None
    assert compared([[1e6, 0.5]], [[1e6, 0.6]]) is not None, "another column's size is no excuse"


def test_shapes_are_equal() -> None:
    assert compared([[1], [2]], [[1, 0], [2, 0]]) == (
        "output 'y' had shape [2, 1] alone and [2, 2] in a batch"
    )


@pytest.mark.parametrize(
    ("dtype", "a", "b"),
    [(np.int64, [1, 2], [1, 3]), (bool, [True], [False]), (object, [b"a", b"b"], [b"a", b"c"])],
)
def test_what_is_never_rounded_is_equal(dtype: Any, a: Any, b: Any) -> None:
    assert compared(a, a, dtype) is None
    assert compared(a, b, dtype) == f"output 'y' differed in 1 of {len(a)} values"


def test_nan_and_infinity_are_equal_to_themselves_alone() -> None:
    nan, inf = float("nan"), float("inf")
    assert compared([nan, inf, -inf], [nan, inf, -inf]) is None
    assert compared([nan], [1]) is not None
    assert compared([1], [nan]) is not None
    assert compared([inf], [-inf]) is not None
    assert compared([1.0], [inf]) is not None


def test_complex_numbers_and_quantized_ones() -> None:
    assert compared([1 + 1j], [1 + 1j], np.complex64) is None
    assert compared([1 + 1j], [1 - 1j], np.complex64) is not None
    quantized = np.dtype([("qint8", "i1")])
    assert compared([(1,)], [(1,)], quantized) is None
    assert compared([(1,)], [(2,)], quantized) is not None


def test_one_output_of_several_is_enough() -> None:
    def answer(z: float) -> dict[str, NDArray[Any]]:
        return {"y": np.ones((1, 2)), "z": np.array([z])}

    assert difference([answer(1), answer(2)], [answer(1), answer(2)]) is None
    found = difference([answer(1), answer(2)], [answer(1), answer(2.1)])
    assert found is not None
    assert found.startswith("output 'z'")


def test_requests_vary_only_if_each_input_does() -> None:
    one, two = np.array([1.0]), np.array([2.0])
    assert all_vary([{"x": one, "k": one}, {"x": two, "k": two}])
    assert all_vary([{"x": one}, {"x": np.array([1.0, 1.0])}])
    assert not all_vary([{"x": one, "k": one}, {"x": two, "k": one}])


MATRICES = arrays.arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32))


@given(MATRICES)
def test_an_answer_is_like_itself_and_unlike_one_with_an_altered_largest_value(
    matrix: NDArray[np.float32],
) -> None:
    assert compared(matrix, matrix) is None
    altered = matrix.copy()
    place = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    altered[place] = matrix[place] * 1.01 + 1
    assert compared(matrix, altered) is not None
    assert compared(altered, matrix) is not None
