"""One row that is not as the others is set aside with its number, and all others are predicted."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ladle.batch import cli
from ladle.client.testing import FunctionModel, FunctionServer


def number_model(dtype: str) -> FunctionModel:
    return FunctionModel(
        lambda inputs: {"twice": inputs["x"].astype(np.float64) * 2},
        inputs={"x": (dtype, (-1,))},
        outputs={"twice": ("float64", (-1,))},
    )


def predict(
    folder: Path, name: str, model: str | FunctionModel = "float32", *arguments: object
) -> int:
    """Predict a file of a folder into `out`, as JSON lines; a model may be told by its dtype."""
    served = number_model(model) if isinstance(model, str) else model
    with FunctionServer({"m": served}) as server:
        fixed = ["--server", server.address, "--model", "m", "--input", str(folder / name)]
        fixed += ["--output", str(folder / "out"), "--output-format", "jsonl", "--quiet"]
        return cli.main([*fixed, *map(str, arguments)])


def done(folder: Path) -> tuple[dict[int, Any], dict[int, str]]:
    """Return the predictions by row, and the reasons of the rows without one."""
    parts = (folder / "out").glob("part-*.jsonl")
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    failures = (folder / "out").glob("_failed-*.jsonl")
    failed = [json.loads(line) for part in failures for line in part.read_text().splitlines()]
    return {row["row"]: row["twice"] for row in rows}, {row["row"]: row["reason"] for row in failed}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ('{"x": [2, 3]}', "expected [] in each row, got [2]"),
        ('{"x": []}', "expected [] in each row, got [0]"),
        ('{"x": [[2], [3]]}', "expected [] in each row, got [2, 1]"),
        ('{"x": {"y": 1}}', "expected numbers, got"),
        ('{"x": "two"}', "expected numbers, got"),
        ('{"x": null}', "it has no value"),
        ('{"x": 1e39}', "too large"),
        ('{"x": 1e400}', "expected a number that a float can hold, got 1e400"),
        ('{"x": -1' + "0" * 400 + ".5}", "expected a number that a float can hold, got -1000"),
        ('{"y": 1}', 'it has no "x"'),
        ("2", 'it has no "x"'),
        ("", None),
        ("{", "expected a line of JSON"),
        ("{'x': 1}", "expected a line of JSON"),
    ],
)
@pytest.mark.parametrize("position", [0, 5])
def test_an_odd_json_line_is_set_aside(
    odd: str, reason: str | None, position: int, tmp_path: Path
) -> None:
    lines = [f'{{"x": {n}}}' for n in range(12)]
    if odd:
        lines[position] = odd
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert predict(tmp_path, "in.jsonl") == (3 if reason else 0)
    predicted, failed = done(tmp_path)
    assert set(failed) == ({position} if reason else set())
    assert reason is None or reason in failed[position]
    assert predicted == {n: 2.0 * n for n in range(12) if n not in failed}


@pytest.mark.parametrize(
    ("name", "content"),
    [("in.jsonl", ""), ("in.jsonl", "\n\n"), ("in.csv", "x"), ("in.tfrecord", "")],
)
def test_an_input_without_rows_gives_none(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert predict(tmp_path, name) == 0
    assert done(tmp_path) == ({}, {})


def test_lines_without_a_common_column_still_bind_by_name(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"a": 1}\n{"x": 1}\n{"b": 1}\n')
    assert predict(tmp_path, "in.jsonl") == 3
    assert done(tmp_path)[0] == {1: 2.0}


def test_lines_without_any_column_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text("{}\n{}\n")
    assert predict(tmp_path, "in.jsonl") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("value", ["[2]", "2.0", "true"])
def test_a_number_of_another_look_is_a_number(value: str, tmp_path: Path) -> None:
    lines = [f'{{"x": {n}}}' for n in range(8)]
    lines[5] = f'{{"x": {value}}}'
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    assert predict(tmp_path, "in.jsonl") == 0
    predicted, _ = done(tmp_path)
    assert predicted[5] == 2.0 * float(np.ravel(json.loads(value))[0])
    assert list(predicted) == list(range(8))


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ("1,2,3", "expected 2 columns, got 3"),
        ("1", "expected 2 columns, got 1"),
        ("n/a,two", "Failed to parse string: 'n/a'"),
        (",two", "Failed to parse string: ''"),
        ("1e39,two", "expected float32, got 1e39, which is too large"),
        ("1\u00bd,two", "Failed to parse string: '1\u00bd'"),
    ],
)
@pytest.mark.parametrize("position", [0, 5, 11])
def test_an_odd_csv_line_is_set_aside(odd: str, reason: str, position: int, tmp_path: Path) -> None:
    lines = [f"{n},name" for n in range(12)]
    lines[position] = odd
    (tmp_path / "in.csv").write_text("\r\n".join(["x,name", *lines]))
    assert predict(tmp_path, "in.csv", "float32", "--keep", "name") == 3
    predicted, failed = done(tmp_path)
    assert list(failed) == [position]
    assert reason in failed[position]
    assert predicted == {n: 2.0 * n for n in range(12) if n != position}


@pytest.mark.parametrize("odd", ["0.5", "1e300", str(2**63), str(-(2**63) - 1), "NaN"])
def test_whole_numbers_stay_exact_whatever_else_is_among_them(odd: str, tmp_path: Path) -> None:
    """Together they are floats in numpy, and floats skip whole numbers past 2 to the 53rd."""
    values = [str(2**53 + 1), odd, str(2**62 + 1), "-3"]
    (tmp_path / "in.jsonl").write_text("".join(f'{{"x": {value}}}\n' for value in values))
    seen: list[int] = []

    def remember(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        seen.extend(inputs["x"].tolist())
        return {"twice": inputs["x"].astype(np.float64)}

    model = replace(number_model("int64"), run=remember)
    assert predict(tmp_path, "in.jsonl", model) == 3
    assert sorted(seen) == [-3, 2**53 + 1, 2**62 + 1]
    assert list(done(tmp_path)[1]) == [1]


def test_two_columns_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [pa.array([1.0]), pa.array([2.0])]
    pq.write_table(pa.Table.from_arrays(both, names=["x", "x"]), tmp_path / "in.parquet")
    assert predict(tmp_path, "in.parquet") == 1
    assert "in.parquet: two columns have the same name" in capsys.readouterr().err


def test_csv_text_that_is_no_utf8_is_set_aside(tmp_path: Path) -> None:
    lines = [b"x,name", b"1,a", b"2,caf\xe9", b"3,b", b"\xe9,c"]
    (tmp_path / "in.csv").write_bytes(b"\n".join(lines))
    assert predict(tmp_path, "in.csv", "float32", "--keep", "name") == 3
    predicted, failed = done(tmp_path)
    assert predicted == {0: 2.0, 2: 6.0}
    assert failed[1] == "column \"name\": expected UTF-8 text, got b'caf\\xe9'"
    assert failed[3].startswith('column "x": expected UTF-8 text')


def test_csv_with_newlines_in_quotes_keeps_count_past_the_first_block(tmp_path: Path) -> None:
    """Arrow reads blocks of 8 MB. By default it cuts them at any newline."""
    text = '"' + "one\ntwo\r\n\n" * 1000 + '"'
    rows = 2000
    with (tmp_path / "in.csv").open("w", newline="") as file:
        file.write("x,text\n")
        for n in range(rows):
            file.write(f"{n},{text}\n" if n % 100 else f"{n}\n")
    assert (tmp_path / "in.csv").stat().st_size > 2 * (8 << 20)
    assert predict(tmp_path, "in.csv") == 3
    predicted, failed = done(tmp_path)
    assert set(failed) == set(range(0, rows, 100))
    assert predicted == {n: 2.0 * n for n in range(rows) if n % 100}


def test_a_quote_that_is_never_closed_is_one_line_with_the_file_and_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.batch.readers.csv.CHUNK_BYTES", 1 << 10)
    lines = [f"{n},name" for n in range(1000)]
    lines[700] = '700,"name'
    (tmp_path / "in.csv").write_text("\n".join(["x,name", *lines]))
    assert predict(tmp_path, "in.csv") == 1
    told = capsys.readouterr().err
    assert "in.csv: at row 700 or later" in told
    assert "a quote is not closed, or a row is longer than" in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([Decimal("1.00"), Decimal("250.00")], pa.decimal128(10, 2)),
        ([Decimal("1"), Decimal("250")], pa.decimal128(38, 0)),
        ([Decimal("1"), Decimal("250")], pa.decimal256(60, 0)),
        ([True, False], pa.bool_()),
        ([1, 0], pa.dictionary(pa.int8(), pa.int64())),
    ],
)
def test_parquets_decimals_and_booleans_are_numbers(
    values: list[Any], kind: pa.DataType, dtype: str, tmp_path: Path
) -> None:
    column = pa.array(values, kind) if not pa.types.is_dictionary(kind) else pa.array(values)
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column
    pq.write_table(pa.table({"x": column}), tmp_path / "in.parquet")
    assert predict(tmp_path, "in.parquet", dtype) == 0
    assert list(done(tmp_path)[0].values()) == [2.0 * float(value) for value in values]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([Decimal("1.0"), None], "it has no value"),
        ([Decimal("1.0"), Decimal("1.5")], "a number that is not whole"),
        ([Decimal("1.0"), Decimal("300.0")], "expected uint8, 0 to 255, got 300"),
        ([True, None], "it has no value"),
    ],
)
def test_what_a_decimal_cant_become_is_set_aside(
    values: list[Any], reason: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"x": values}), tmp_path / "in.parquet")
    assert predict(tmp_path, "in.parquet", "uint8") == 3
    predicted, failed = done(tmp_path)
    assert predicted == {0: 2.0}
    assert reason in failed[1]


def test_a_bad_row_of_many_columns_costs_few_conversions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.batch.columns import arrow

    converted = 0
    to_numpy = arrow.to_numpy

    def count(column: pa.Array, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        nonlocal converted
        converted += 1
        return to_numpy(column, dtype)

    monkeypatch.setattr(arrow, "to_numpy", count)
    lines = [str(n % 9) for n in range(4096)]
    lines[1234] = "what"
    (tmp_path / "in.csv").write_text("\n".join(["x", *lines]))
    assert predict(tmp_path, "in.csv") == 3
    assert list(done(tmp_path)[1]) == [1234]
    assert converted <= 2 * 12 + 1, "4096 is 2 to the 12th"


@pytest.mark.parametrize("end", ["", "\n", "\r\n" * 9])
def test_a_quote_that_is_closed_at_the_end_may_hold_newlines(end: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f'x,name\n1,a\n2,"b\nc"{end}')
    assert predict(tmp_path, "in.csv") == 0
    assert done(tmp_path)[0] == {0: 2.0, 1: 4.0}


@pytest.mark.parametrize(
    "content",
    ['x,name\n1,a\n2,"b\n3,c\n4,d\n', 'x,name\n1,a\n2,"b\n3,c\n4,d', 'name,x\na,1\n"b,2\nc,3\n'],
)
def test_a_quote_that_is_open_at_the_end_does_not_swallow_rows(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text(content)
    assert predict(tmp_path, "in.csv") == 1
    assert "in.csv: at row 1 or later: a quote is not closed" in capsys.readouterr().err
