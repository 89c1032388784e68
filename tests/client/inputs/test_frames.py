"""Tables of pandas, polars and Arrow as inputs, column by column."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ladle.client import InvalidInput
from ladle.client.inputs.arrays import as_arrays
from ladle.client.inputs.frames import Table

INSTALL = "`make install` brings it"
DATES = [datetime(2024, 5, 1), datetime(2024, 5, 2)]


def pandas_column(values: Any, dtype: str | None = None) -> Any:
    pandas = pytest.importorskip("pandas", reason=INSTALL)
    return pandas.DataFrame({"a": pandas.Series(values, dtype=dtype)})


def polars_column(values: Any, dtype: str | None = None) -> Any:
    polars = pytest.importorskip("polars", reason=INSTALL)
    kind = None if dtype is None else getattr(polars, dtype)
    return polars.DataFrame({"a": polars.Series(values, dtype=kind)})


def arrow_column(values: Any, dtype: str | None = None) -> Any:
    return pa.table({"a": pa.array(values, None if dtype is None else getattr(pa, dtype)())})


Make = Callable[[Any, str | None], Any]


@pytest.mark.parametrize(
    ("make", "dtype", "values", "expected"),
    [
        (pandas_column, None, [1, 2], "int64"),
        (pandas_column, "category", ["x", "y"], "object"),
        (pandas_column, "category", [3, 5], "int64"),
        (pandas_column, "Int64", [1, 2], "int64"),
        (pandas_column, "Float32", [1.5, 2], "float32"),
        (pandas_column, "boolean", [True, False], "bool"),
        (pandas_column, "string", ["x", "y"], "object"),
        (pandas_column, "double[pyarrow]", [1.5, 2], "float64"),
        (pandas_column, "object", [1, 2], "int64"),
        (pandas_column, "object", [1, 2.5], "float64"),
        (pandas_column, "object", [[1, 2], [3, 4]], "int64"),
        (pandas_column, "float64", [1.5, float("nan")], "float64"),
        (polars_column, None, [1, 2], "int64"),
        (polars_column, "Categorical", ["x", "y"], "object"),
        (polars_column, None, [[1, 2], [3, 4]], "int64"),
        (arrow_column, None, [1, 2], "int64"),
        (arrow_column, None, ["x", "y"], "object"),
        (arrow_column, None, [[1.5], [2.5]], "float64"),
    ],
)
def test_columns_of_any_type_are_what_numpy_has_for_them(
    make: Make, dtype: str | None, values: Any, expected: str
) -> None:
    table = as_arrays(make(values, dtype))
    assert isinstance(table, Table)
    assert table["a"].dtype == expected
    np.testing.assert_array_equal(table["a"], np.array(values, expected))


@pytest.mark.parametrize(
    ("make", "dtype", "values"),
    [
        (pandas_column, "category", ["x", None]),
        (pandas_column, "category", [1, None]),
        (pandas_column, "Int64", [1, None]),
        (pandas_column, "Float32", [1, None]),
        (pandas_column, "boolean", [True, None]),
        (pandas_column, "string", ["x", None]),
        (pandas_column, "int64[pyarrow]", [1, None]),
        (polars_column, None, [1, None]),
        (polars_column, None, ["x", None]),
        (arrow_column, None, [1, None]),
    ],
)
def test_what_is_missing_is_never_sent_as_nan(make: Make, dtype: str | None, values: Any) -> None:
    with pytest.raises(InvalidInput, match=r'column "a": expected a value in each row .* fill'):
        as_arrays(make(values, dtype))
    with pytest.raises(InvalidInput, match=r'input "x": expected a value in each row .* fill'):
        as_arrays({"x": make(values, dtype)["a"]})


@pytest.mark.parametrize("make", [pandas_column, polars_column, arrow_column])
@pytest.mark.parametrize(
    "values",
    [DATES, [date(2024, 5, 1)] * 2, [d.replace(tzinfo=timezone.utc) for d in DATES]],
)
def test_dates_and_times_are_refused_with_what_to_give(make: Make, values: Any) -> None:
    with pytest.raises(InvalidInput, match=r'column "a": expected numbers or text, .* since 1970'):
        as_arrays(make(values, None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3]], "got a list at [0]; lists have to be of numbers, and of one length"),
        ([1, "b"], "expected all numbers, or all text or bytes, got an int at [0]"),
        ([{"b": 1}] * 2, "got a dict at [0]"),
    ],
)
def test_objects_of_other_kinds_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(message)):
        as_arrays(pandas_column(values, "object"))


def test_a_name_that_several_columns_have_is_refused() -> None:
    pandas = pytest.importorskip("pandas", reason=INSTALL)
    frame = pandas.DataFrame([[1, 2]], columns=["a", "a"])
    with pytest.raises(InvalidInput, match='column "a": expected each name once'):
        as_arrays(frame)
    with pytest.raises(InvalidInput, match="expected columns, got an empty DataFrame"):
        as_arrays(pandas.DataFrame())


def test_columns_of_lists_are_no_rows_of_one_input() -> None:
    table = as_arrays(pa.table({"a": [[1, 2], [3, 4]], "b": [1, 2]}))
    assert isinstance(table, Table)
    with pytest.raises(InvalidInput, match=r'input "x": expected columns .* got lists in a'):
        table.for_inputs(["x"])


def test_names_of_inputs_are_text() -> None:
    with pytest.raises(InvalidInput, match="expected names that are text, got an int: 1"):
        as_arrays({1: [1.0], "a": [2.0]})  # type: ignore[dict-item]
