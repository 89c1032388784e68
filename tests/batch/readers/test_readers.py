"""Every format gives the same rows, from wherever the reading begins."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ladle.batch.errors import BatchError
from ladle.batch.readers import chunks, files, images, jsonl
from ladle.batch.readers.chunks import chunk_rows
from ladle.batch.readers.opening import open_reader
from ladle.batch.readers.reader import Reader
from ladle.batch.rows import FailedRow, Rows
from ladle.client.inputs.examples import to_example
from ladle.protos.files.records import frame

X = np.arange(40, dtype=np.int64).reshape(20, 2)
NAMES = [f"n{index}" for index in range(20)]


def save_npy(folder: Path) -> list[Path]:
    np.save(folder / "a.npy", X[:7])
    np.save(folder / "b.npy", X[7:])
    return [folder / "a.npy", folder / "b.npy"]


def save_npz(folder: Path) -> list[Path]:
    np.savez(folder / "a.npz", x=X[:7], name=np.array(NAMES[:7]))
    np.savez_compressed(folder / "b.npz", x=X[7:], name=np.array(NAMES[7:]))
    return [folder / "a.npz", folder / "b.npz"]


def save_parquet(folder: Path) -> list[Path]:
    rows = pa.table({"x": X.tolist(), "name": NAMES})
    pq.write_table(rows[:7], folder / "a.parquet", row_group_size=3)
    pq.write_table(rows[7:], folder / "b.parquet", row_group_size=4)
    return [folder / "a.parquet", folder / "b.parquet"]


def save_jsonl(folder: Path) -> list[Path]:
    lines = [
        json.dumps({"x": row, "name": name}) for row, name in zip(X.tolist(), NAMES, strict=True)
    ]
    (folder / "a.jsonl").write_text("\n".join(lines[:7]) + "\n")
    (folder / "b.jsonl").write_text("\n\n".join(lines[7:]))  # no end of the last line
    return [folder / "a.jsonl", folder / "b.jsonl"]


def save_tfrecord(folder: Path) -> list[Path]:
    records = [
        to_example({"x": row, "name": name}).SerializeToString()
        for row, name in zip(X.tolist(), NAMES, strict=True)
    ]
    (folder / "a.tfrecord").write_bytes(b"".join(map(frame, records[:7])))
    (folder / "b.tfrecord").write_bytes(b"".join(map(frame, records[7:])))
    return [folder / "a.tfrecord", folder / "b.tfrecord"]


def values(column: Any) -> list[Any]:
    listed = column.to_pylist() if isinstance(column, pa.Array) else list(column)
    return [
        v.tolist()
        if isinstance(v, np.ndarray | np.generic)
        else v.decode()
        if type(v) is bytes
        else v
        for v in listed
    ]


def read(opened: Reader, start: int, *wanted: str) -> tuple[list[int], dict[str, list[Any]]]:
    """Return all rows from a start, having checked that they follow each other."""
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    following, share = start, 0.0
    for rows in opened.read(start, wanted):
        assert rows.start == following
        assert rows.share >= share
        following, share = rows.stop, rows.share
        numbers += rows.numbers.tolist()
        for name in wanted:
            assert len(rows.columns[name]) == len(rows.numbers)
            columns[name] += values(rows.columns[name])
    assert share == 1 or not numbers
    return numbers, columns


SAVES = [save_npz, save_parquet, save_jsonl, save_tfrecord]


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("start", [0, 1, 6, 7, 8, 19, 20])
def test_rows_are_the_same_wherever_the_reading_begins(
    save: Callable[[Path], list[Path]],
    start: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 64)  # several chunks in each file
    input_format, paths = files.find([str(path) for path in save(tmp_path)])
    opened = open_reader(input_format, paths)
    assert set(opened.columns) >= {"x", "name"}
    assert opened.total_rows in (20, None)
    numbers, columns = read(opened, start, "x", "name")
    assert numbers == list(range(start, 20))
    assert columns == {"x": X[start:].tolist(), "name": NAMES[start:]}
    assert read(opened, start, "name")[1] == {"name": NAMES[start:]}


@pytest.mark.parametrize("start", [0, 6, 7, 13])
def test_npy_files_have_one_column(start: int, tmp_path: Path) -> None:
    opened = open_reader("npy", save_npy(tmp_path))
    assert (opened.columns, opened.total_rows) == (("array",), 20)
    assert read(opened, start, "array")[1] == {"array": X[start:].tolist()}


@pytest.mark.parametrize("start", range(9))
def test_csv_is_text_and_tells_rows_that_are_too_short_or_long(start: int, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,"x,y"\n2\n\n3,z\n4,5,6\n')
    (tmp_path / "b.csv").write_text("a,b\n7,8\n9,\n10\n11\n")
    opened = open_reader("csv", [tmp_path / "a.csv", tmp_path / "b.csv"])
    rows: list[tuple[int, str, str]] = []
    failed: list[FailedRow] = []
    following = start
    for piece in opened.read(start, ("a", "b")):
        assert piece.start == following
        following = piece.stop
        texts = (values(piece.columns["a"]), values(piece.columns["b"]))
        rows += zip(piece.numbers.tolist(), *texts, strict=True)
        failed += piece.failed
    expected = [(0, "1", "x,y"), (2, "3", "z"), (4, "7", "8"), (5, "9", "")]
    assert rows == [row for row in expected if row[0] >= start]
    assert [(row.row, row.reason) for row in failed] == [
        (number, f"expected 2 columns, got {count}")
        for number, count in ((1, 1), (3, 3), (6, 1), (7, 1))
        if number >= start
    ]


def test_csv_of_many_blocks_keeps_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ladle.batch.readers import csv

    monkeypatch.setattr(csv, "CHUNK_BYTES", 60)
    lines = [f"{n},{n}" if n % 7 else f"{n}" for n in range(200)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b", *lines]))
    numbers, columns = read(open_reader("csv", [tmp_path / "a.csv"]), 50, "a")
    assert numbers == [n for n in range(50, 200) if n % 7]
    assert columns["a"] == [str(n) for n in numbers]


def test_json_lines_tell_what_is_wrong_with_a_row(tmp_path: Path) -> None:
    b64 = base64.b64encode(b"\xff\x00").decode()
    lines = [f'{{"x": {{"b64": "{b64}"}}}}', "{", '{"y": 1}', '{"x": [1, 2]}', "[" * 100_000]
    lines += ['{"x": {"b64": 5}}', '{"x": {"b64": null}}', '{"x": {"b64": "?"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    [rows] = open_reader("jsonl", [tmp_path / "a.jsonl"]).read(0, ("x",))
    assert rows.numbers.tolist() == [0, 3]
    assert list(rows.columns["x"]) == [b"\xff\x00", [1, 2]]
    assert [row.row for row in rows.failed] == [1, 2, 4, 5, 6, 7]
    assert rows.failed[0].reason.startswith("expected a line of JSON: ")
    assert rows.failed[1].reason == 'it has no "x"'
    assert rows.failed[3].reason.endswith('"b64": expected text, got 5')


def test_json_lines_may_be_values_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1, 2]\n[3, 4]\n")
    opened = open_reader("jsonl", [tmp_path / "a.jsonl"])
    assert opened.columns == ("value",)
    assert read(opened, 0, "value")[1] == {"value": [[1, 2], [3, 4]]}


def test_a_line_without_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    (tmp_path / "a.jsonl").write_text("1\n" + "[" * 1000)
    with pytest.raises(BatchError, match="a line is longer than 100 bytes"):
        list(open_reader("jsonl", [tmp_path / "a.jsonl"]).read(0, ("value",)))


def test_a_record_is_a_column_too_and_one_without_a_feature_fails(tmp_path: Path) -> None:
    whole = to_example({"x": [1.5, 2.5]}).SerializeToString()
    records = [whole, to_example({"y": 1}).SerializeToString(), b"\xff"]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(map(frame, records)))
    opened = open_reader("tfrecord", [tmp_path / "a.tfrecord"])
    assert opened.columns == ("record", "x", "y")
    [rows] = opened.read(0, ("x",))
    assert rows.columns["x"][0].dtype == np.float32
    assert [(row.row, row.reason) for row in rows.failed] == [
        (1, 'it has no feature "x"'),
        (2, "the record is no tf.Example"),
    ]
    [rows] = opened.read(0, ("record",))
    assert list(rows.columns["record"]) == records


def test_images_are_paths_or_bytes_and_one_that_is_missing_fails(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    (tmp_path / "list.txt").write_text("a.png\n\ngone.png\na.png\n")
    input_format, paths = files.find([str(tmp_path / "list.txt")])
    before = files.fingerprint(paths)
    opened = open_reader(input_format, paths)
    assert opened.total_rows == 3
    [rows] = opened.read(0, ("path", "bytes"))
    assert rows.numbers.tolist() == [0, 2]
    assert list(rows.columns["bytes"]) == [b"A", b"A"]
    assert rows.failed[0].reason.endswith("gone.png: No such file or directory")
    assert read(opened, 2, "path")[1] == {"path": [str(tmp_path / "a.png")]}
    (tmp_path / "a.png").write_bytes(b"B")
    assert files.fingerprint(paths) != before, "the images are the input, not their list alone"


def test_images_are_read_in_chunks_of_so_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "CHUNK_BYTES", 100)
    paths = [tmp_path / f"{n}.png" for n in range(10)]
    for path in paths:
        path.write_bytes(b"x" * 40)
    paths[4].unlink()
    opened = open_reader("images", paths)
    spans = [(rows.start, rows.stop) for rows in opened.read(0, ("bytes",))]
    assert spans == [(0, 3), (3, 7), (7, 10)]
    assert read(opened, 5, "bytes")[0] == [5, 6, 7, 8, 9]
    assert len([*opened.read(0, ("path",))]) == 1


def damaged(save: Callable[[Path], list[Path]], cut: int) -> Callable[[Path], list[Path]]:
    def saved(folder: Path) -> list[Path]:
        paths = save(folder)
        data = paths[1].read_bytes()
        paths[1].write_bytes(data[:-cut] if cut else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        return paths

    return saved


def altered(
    save: Callable[..., Any], at: bytes, index: int, bits: int = 0xFF
) -> Callable[[Path], list[Path]]:
    """Save an .npz with some bits of one byte turned, `index` after where `at` is found first."""

    def saved(folder: Path) -> list[Path]:
        path = folder / "x.npz"
        save(path, x=np.zeros((20, 2)))
        data = bytearray(path.read_bytes())
        data[data.index(at) + index] ^= bits
        path.write_bytes(data)
        return [path]

    return saved


def text(content: str, name: str) -> Callable[[Path], list[Path]]:
    def saved(folder: Path) -> list[Path]:
        (folder / name).write_text(content)
        return [folder / name]

    return saved


def objects(folder: Path) -> list[Path]:
    np.save(folder / "o.npy", np.array([{}, 1], object))
    return [folder / "o.npy"]


def columnwise(folder: Path) -> list[Path]:
    np.save(folder / "f.npy", np.asfortranarray(X))
    return [folder / "f.npy"]


def uneven(folder: Path) -> list[Path]:
    np.savez(folder / "u.npz", a=X, b=X[1:])
    return [folder / "u.npz"]


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (damaged(save_npy, 5), "the file ends in the middle of an array"),
        (damaged(save_npz, 30), "it is no array of numpy's"),
        (altered(np.savez, b"PK", 0), "it can't be read: Bad magic number for file header"),
        (altered(np.savez, b"PK\1\2", 8, 1), "it can't be read: File .* is encrypted"),
        (altered(np.savez_compressed, b"x.npy", 25), "Error -3 while decompressing data"),
        (damaged(save_parquet, 5), "it can't be read as Parquet"),
        (damaged(save_tfrecord, 5), "the record at byte .* is damaged: expected .* are left"),
        (damaged(save_tfrecord, 0), "the record at byte .* is damaged: its checksum is wrong"),
        (text("what", "a.npy"), "it is no array of numpy's"),
        (text("what", "a.parquet"), "it can't be read as Parquet"),
        (text("", "a.csv"), "it can't be read as CSV: Empty CSV file"),
        (text("a,a\n1,2\n", "a.csv"), "two columns have the same name"),
        (text("what\n", "a.jsonl"), "its first line is no JSON"),
        (text("what is it", "a.tfrecord"), "the record at byte 0 is damaged"),
        (text("", "a.txt"), "the list is empty"),
        (objects, "it holds Python objects, which are not loaded"),
        (columnwise, "its array lies column by column"),
        (uneven, r"expected as many rows in each array, got {'a': 20, 'b': 19}"),
    ],
)
def test_what_cant_be_read_is_one_line_with_the_file(
    save: Callable[[Path], list[Path]], message: str, tmp_path: Path
) -> None:
    paths = save(tmp_path)

    def read_all() -> None:
        opened = open_reader(*files.find([str(path) for path in paths]))
        list(opened.read(0, opened.columns))

    with pytest.raises(BatchError, match=message) as raised:
        read_all()
    assert str(raised.value).startswith(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    (tmp_path / "b.csv").write_text("a,c\n")
    with pytest.raises(BatchError, match=r"expected the columns a, b, as in .*a.csv, got a, c"):
        open_reader("csv", [tmp_path / "a.csv", tmp_path / "b.csv"])


def test_chunks_are_of_whole_requests_where_rows_are_small() -> None:
    assert chunk_rows(784) % 512 == 0
    assert chunk_rows(1 << 30) == 1
    assert chunk_rows(0) == 1 << 16


def test_a_row_group_as_large_as_the_file_is_read_in_chunks(tmp_path: Path) -> None:
    pixels: NDArray[np.uint8] = np.zeros((30_000, 784), np.uint8)
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(784), len(pixels), [None, pa.py_buffer(pixels)]
    )
    pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet", row_group_size=30_000)
    chunks: list[Rows] = list(open_reader("parquet", [tmp_path / "a.parquet"]).read(0, ("x",)))
    assert len(chunks) > 2
    assert chunks[-1].stop == 30_000
