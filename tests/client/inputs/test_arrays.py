"""What callers may pass in beside arrays: taken, or refused by its name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.client import InvalidInput
from ladle.client.inputs.arrays import as_arrays
from ladle.client.inputs.frames import Table

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Frame:
    """The part of a DataFrame, pandas' or polars', that is used."""

    def __init__(self, **columns: Any) -> None:
        self.columns = list(columns)
        self._columns = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]

    def to_numpy(self) -> NDArray[Any]:
        raise AssertionError("mixed columns would become objects")


class ArrayLike:
    def __init__(self, array: NDArray[Any] | Exception) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        if isinstance(self.array, Exception):
            raise self.array
        return self.array


class OnlyDLPack:
    def __init__(self, array: NDArray[Any], error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __dlpack__(self, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def only(values: Any) -> NDArray[Any]:
    array = as_arrays(values)
    assert isinstance(array, np.ndarray)
    return array


@pytest.mark.parametrize(
    "values",
    [X, ArrayLike(X), OnlyDLPack(X), np.ma.array(X), np.ma.array(X, mask=False), X.tolist()],
)
def test_what_converts_without_loss_is_taken(values: Any) -> None:
    np.testing.assert_array_equal(only(values), X)
    assert not isinstance(only(values), np.ma.MaskedArray)
    np.testing.assert_array_equal(as_arrays({"x": values})["x"], X)


@pytest.mark.parametrize("values", ["text", b"text\0", ["text", b"text\0"], [["a"], ["b"]]])
def test_text_and_bytes_become_objects(values: Any) -> None:
    array = only(values)
    assert array.dtype == object
    assert array.tolist() == (values if isinstance(values, list) else array.item())


def test_numpys_strings_of_any_width_are_text() -> None:
    strings = getattr(np.dtypes, "StringDType", None)
    if strings is None:
        pytest.skip("numpy 1 has none")
    assert only(np.array(["ab", "c"], strings())).tolist() == ["ab", "c"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "x: expected an array, or a list of values, got None"),
        ({1, 2}, "x: expected an array, or a list of values, got a set"),
        ((n for n in [1]), "x: expected an array, or a list of values, got a generator"),
        (object(), "x: expected an array, or a list of values, got an object"),
        ([[1, 2], [3, None]], r"x: expected all numbers.*, got None at \[1, 1\]; fill"),
        (["a", float("nan")], r"x: expected all numbers.*, got a float at \[1\]; fill"),
        ([Decimal(1)], r"x: expected all numbers.*, got a Decimal at \[0\]$"),
        ([{"a": 1}], r"x: expected all numbers.*, got a dict at \[0\]$"),
        (
            np.ma.array(X, mask=X > 4),
            r"x: expected an array without masked values.*filled\(value\)",
        ),
        (ArrayLike(TypeError("it is on cuda:0")), "x: .* of this ArrayLike: it is on cuda:0"),
        (ArrayLike(RuntimeError("it requires grad")), "x: .* of this ArrayLike: it requires grad"),
        (OnlyDLPack(X, BufferError("no CPU")), "x: .* of this OnlyDLPack: no CPU"),
        ([[1, 2], [3]], "x: numpy can't make an array of this list: "),
    ],
)
def test_anything_else_is_refused_by_its_name(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message.replace("x:", 'input "x":', 1)):
        as_arrays({"x": values})


class TestTables:
    FRAME = Frame(a=[1, 2], b=np.array([3.5, 4.5]))

    def test_columns_are_inputs_by_name(self) -> None:
        table = as_arrays(self.FRAME)
        assert isinstance(table, Table)
        assert table.for_inputs(["b", "a"]) is table

    def test_for_one_input_they_are_put_side_by_side(self) -> None:
        stacked = Table(as_arrays(self.FRAME)).for_inputs(["x"])["x"]
        assert stacked.tolist() == [[1.0, 3.5], [2.0, 4.5]]

    def test_a_column_of_the_only_inputs_name_stays_one(self) -> None:
        table = as_arrays(Frame(x=[1, 2]))
        assert isinstance(table, Table)
        assert table.for_inputs(["x"])["x"].shape == (2,)

    def test_text_beside_numbers_is_no_array(self) -> None:
        table = as_arrays(Frame(a=[1, 2], b=["c", "d"]))
        assert isinstance(table, Table)
        with pytest.raises(InvalidInput, match="got text beside numbers in a, b"):
            table.for_inputs(["x"])

    def test_what_is_wrong_names_the_column(self) -> None:
        with pytest.raises(InvalidInput, match=r'column "b": .* got None at \[0\]; fill'):
            as_arrays(Frame(a=[1], b=[None]))
        with pytest.raises(InvalidInput, match="expected columns, got an empty Frame"):
            as_arrays(Frame())
