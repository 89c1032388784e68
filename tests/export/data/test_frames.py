"""Training data in DataFrames: what a CSV of the same columns gives, without a file."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ladle.export import DataError, Dataset, MultiDataset, load_data, load_multi_data

INSTALL = "`make install` brings it"
N = 20
COLUMNS: dict[str, list[Any]] = {
    "age": list(range(N)),
    "rate": [n / 8 for n in range(N)],
    "label": [("stays", "goes")[n % 2] for n in range(N)],
    "sample_weight": [1.0 + n % 3 for n in range(N)],
}


def pandas_frame(columns: dict[str, Any]) -> Any:
    return pytest.importorskip("pandas", reason=INSTALL).DataFrame(columns)


def polars_frame(columns: dict[str, Any]) -> Any:
    return pytest.importorskip("polars", reason=INSTALL).DataFrame(columns)


MAKERS = [pandas_frame, polars_frame, pa.table]
Make = Callable[[dict[str, Any]], Any]


def as_csv(path: Path, columns: dict[str, list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def check_alike(found: Any, expected: Any) -> None:
    for part in ("x_train", "y_train", "x_test", "y_test", "sample_weight"):
        of_found, of_expected = getattr(found, part), getattr(expected, part)
        if isinstance(of_expected, dict):
            assert of_found.keys() == of_expected.keys()
            for name, array in of_expected.items():
                np.testing.assert_array_equal(of_found[name], array)
        else:
            np.testing.assert_array_equal(of_found, of_expected)
    assert found.labels == expected.labels


@pytest.mark.parametrize("make", MAKERS)
def test_a_table_of_numbers_is_that_of_a_csv(make: Make, tmp_path: Path) -> None:
    found = load_data(make(COLUMNS))
    expected = load_data(as_csv(tmp_path / "t.csv", COLUMNS))
    check_alike(found, expected)
    assert found.columns == expected.columns == ("age", "rate")
    assert found.normalization == expected.normalization
    assert found.labels == ("goes", "stays")


@pytest.mark.parametrize("make", MAKERS)
def test_a_regression_and_groups_are_those_of_a_csv(make: Make, tmp_path: Path) -> None:
    columns = {
        "age": COLUMNS["age"],
        "who": [f"p{n // 4}" for n in range(N)],
        "target": COLUMNS["rate"],
    }
    found = load_data(make(columns), regression=True, group_by="who")
    expected = load_data(as_csv(tmp_path / "t.csv", columns), regression=True, group_by="who")
    check_alike(found, expected)
    assert found.groups is not None
    np.testing.assert_array_equal(found.groups, expected.groups)


@pytest.mark.parametrize("make", MAKERS)
def test_texts_are_those_of_a_csv(make: Make, tmp_path: Path) -> None:
    columns = {"review": [f"so {n}" for n in range(N)], "label": COLUMNS["label"]}
    found = load_data(make(columns))
    check_alike(found, load_data(as_csv(tmp_path / "t.csv", columns)))
    assert found.preparation.are_texts
    beside = {"age": COLUMNS["age"], **columns}
    several = load_multi_data(make(beside))
    assert isinstance(several, MultiDataset)
    check_alike(several, load_multi_data(as_csv(tmp_path / "u.csv", beside)))
    with pytest.raises(DataError, match=r'has texts beside numbers, column "review"'):
        load_data(make(beside))


def test_categories_booleans_and_nullable_numbers_are_what_they_stand_for() -> None:
    pandas = pytest.importorskip("pandas", reason=INSTALL)
    frame = pandas.DataFrame(
        {
            "n": pandas.array([*range(N)], dtype="Int64"),
            "b": pandas.array([n % 2 == 0 for n in range(N)], dtype="boolean"),
            "c": pandas.Categorical([n % 3 for n in range(N)]),
            "o": pandas.Series([n / 2 for n in range(N)], dtype=object),
            "label": pandas.Categorical([float(n % 2) for n in range(N)]),
        }
    ).set_index(pandas.RangeIndex(N, 0, -1))
    dataset = load_data(frame)
    assert isinstance(dataset, Dataset)
    assert dataset.labels == ("0", "1")
    assert dataset.columns == ("n", "b", "c", "o")
    assert dataset.x_train[:2].tolist() == [[0, 1, 0, 0], [1, 0, 1, 0.5]]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"age": [*range(N - 1), None]}, 'column "age": expected a value in each row; fill'),
        ({"age": [datetime(2024, 1, 1)] * N}, 'column "age": expected numbers or texts, got d'),
        ({"rate": [1.0] * (N - 1) + [float("inf")]}, 'column "rate": row 19: expected a finite'),
        ({"rate": [1e39] * N}, 'column "rate": row 0: expected a finite number, got 1e+39'),
        ({"label": [" "] + ["a"] * (N - 1)}, 'column "label": row 0: expected a label, got an'),
        ({"sample_weight": ["1"] * N}, 'column "sample_weight": expected numbers, got the text'),
        ({"target": [1] * N}, "expected a column label or target, got both"),
    ],
)
def test_what_a_model_cannot_have_is_named(make: Make, changed: Any, message: str) -> None:
    frame = make(COLUMNS | changed)
    # Where a library has no missing integers, it made NaN of them.
    missing = "expected a finite number, got nan" if make is pandas_frame else message
    with pytest.raises(DataError) as refusal:
        load_data(frame)
    assert message in str(refusal.value) or ("fill" in message and missing in str(refusal.value))


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(DataError, match="expected a name, a path or a DataFrame, got dict"):
        load_data({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=re.escape("expected columns, got an empty Table")):
        load_data(pa.table({}))
    with pytest.raises(DataError, match="expected rows, got none"):
        load_data(pa.table({"a": pa.array([], pa.int8()), "label": pa.array([], pa.string())}))
