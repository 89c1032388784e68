from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from ladle.batch.columns import mapping
from ladle.batch.columns.mapping import ColumnRule, ColumnSource, parse_rule
from ladle.batch.columns.tensors import prepare
from ladle.batch.errors import BatchError
from ladle.batch.rows import Column, FailedRow, Part, Rows
from ladle.client.models import TensorSpec
from ladle.protos import dtypes

FLOAT, UINT8, STRING, COMPLEX64, INT64, BFLOAT16 = 1, 4, 7, 8, 9, 14
IMAGES = {"images": TensorSpec(FLOAT, (-1, 2, 2))}
TWO = {"a": TensorSpec(FLOAT, (-1,)), "b": TensorSpec(INT64, (-1, 2))}


def bind(
    inputs: dict[str, TensorSpec],
    columns: Sequence[str],
    *rules: str,
    is_text: bool = False,
    are_images: bool = False,
    is_normalised: bool = False,
    optional: frozenset[str] = frozenset(),
    of_card: tuple[str, ...] = (),
) -> dict[str, tuple[str, ...]]:
    sources = mapping.bind(
        inputs,
        optional,
        columns,
        [parse_rule(rule) for rule in rules],
        is_text=is_text,
        are_images=are_images,
        is_normalised=is_normalised,
        of_card=of_card,
    )
    return {
        name: (*source.columns, *([str(source.dtype)] if source.dtype else []))
        for name, source in sources.items()
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=a", ColumnRule("x", ("a",), None)),
        ("x=a,b", ColumnRule("x", ("a", "b"), None)),
        ("x=p*:uint8", ColumnRule("x", ("p*",), "uint8")),
        ("x=a:b", ColumnRule("x", ("a:b",), None)),
        ("x=a:b:float32", ColumnRule("x", ("a:b",), "float32")),
    ],
)
def test_a_rule_is_read(text: str, expected: ColumnRule) -> None:
    assert parse_rule(text) == expected


@pytest.mark.parametrize("text", ["", "x", "x=", "=a", "x=,", "x=:uint8"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected TENSOR=COLUMN"):
        parse_rule(text)


def test_columns_are_found_by_name_rule_or_being_the_only_one() -> None:
    assert bind(TWO, ["c", "b", "a"]) == {"a": ("a",), "b": ("b",)}
    assert bind(TWO, ["c", "b", "a"], "a=c") == {"a": ("c",), "b": ("b",)}
    assert bind(IMAGES, ["pixels"]) == {"images": ("pixels",)}
    assert bind({}, ["p", "q"], "images=p") == {"images": ("p",)}
    assert bind(TWO, ["b"], optional=frozenset({"a"})) == {"b": ("b",)}


def test_a_pattern_takes_columns_in_the_order_of_their_numbers() -> None:
    columns = ["label", "p10", "p9", "p1"]
    assert bind(IMAGES, columns, "images=p*") == {"images": ("p1", "p9", "p10")}
    assert bind(IMAGES, ["p[0]", "p0"], "images=p[0]") == {"images": ("p[0]",)}


def test_images_are_paths_or_bytes_as_the_model_wants() -> None:
    columns = ("path", "bytes")
    assert bind(IMAGES, columns, are_images=True) == {"images": ("path",)}
    encoded = {"image_bytes": TensorSpec(STRING, (-1,))}
    assert bind(encoded, columns, are_images=True) == {"image_bytes": ("bytes",)}


def test_numbers_in_text_become_the_declared_dtype_or_the_rules() -> None:
    assert bind(IMAGES, ["p"], is_text=True) == {"images": ("p", "float32")}
    assert bind(IMAGES, ["p"], "images=p:uint8", is_text=True) == {"images": ("p", "uint8")}
    assert bind({"s": TensorSpec(STRING, (-1,))}, ["p"], is_text=True) == {"s": ("p",)}


@pytest.mark.parametrize(
    ("inputs", "columns", "rules", "message"),
    [
        (TWO, ["a", "c"], [], 'input "b" of the model, int64 .*: no column .* --map b=COLUMN'),
        (IMAGES, ["a", "b"], [], "the columns are a, b"),
        (IMAGES, ["a"], ["images=b"], '--map images: the input has no column "b"; it has a'),
        (IMAGES, ["a"], ["image=a"], 'the model has no input "image"; it has "images" float32'),
        (IMAGES, ["a"], ["images=a", "images=a"], "expected each tensor once"),
        ({}, ["a"], [], "the server doesn't tell the model's inputs"),
        (IMAGES, [f"c{n}" for n in range(20)], [], "c9 and 10 more"),
    ],
)
def test_what_has_no_place_is_told(
    inputs: dict[str, TensorSpec], columns: list[str], rules: list[str], message: str
) -> None:
    with pytest.raises(BatchError, match=message):
        bind(inputs, columns, *rules)


def test_numbers_in_text_that_may_be_raw_pixels_have_to_be_told() -> None:
    with pytest.raises(BatchError, match="say --map images=p:uint8 or --map images=p:float32"):
        bind(IMAGES, ["p"], is_text=True, is_normalised=True)
    told = bind(IMAGES, ["p"], "images=p:uint8", is_text=True, is_normalised=True)
    assert told == {"images": ("p", "uint8")}


def prepared(
    columns: dict[str, Column], spec: TensorSpec | None, dtype: str | None = None
) -> list[Part]:
    count = len(next(iter(columns.values())))
    rows = Rows(start=5, stop=5 + count, numbers=np.arange(5, 5 + count), columns=columns)
    source = ColumnSource(tuple(columns), np.dtype(dtype) if dtype else None, spec)
    return list(prepare(rows, {"x": source}, ()))


def objects(*values: Any) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


NESTED = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
FLAT = [[1, 2, 3, 4], [5, 6, 7, 8]]
RAW = [bytes([1, 2, 3, 4]), bytes([5, 6, 7, 8])]
PIXELS = TensorSpec(UINT8, (-1, 2, 2))
LARGE = pa.large_list(pa.uint8())
TENSORS = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(NESTED, np.uint8))


@pytest.mark.parametrize(
    "column",
    [
        np.array(NESTED, np.uint8),
        np.array(FLAT, np.uint8),
        pa.array(NESTED, pa.list_(pa.list_(pa.uint8()))),
        pa.array(FLAT, pa.list_(pa.uint8(), 4)),
        pa.array([[0] * 4, *FLAT, [0] * 4], pa.list_(pa.uint8(), 4))[1:3],
        pa.array([[0] * 4, *FLAT, [0] * 3], LARGE)[1:3],
        pa.array(RAW, pa.binary(4)),
        pa.array([b"0000", *RAW, b"1111"], pa.binary(4))[1:3],
        pa.array(RAW, pa.binary()),
        pa.array([b"0", *RAW, b"11"], pa.large_binary())[1:3],
        TENSORS,
        objects(*(np.array(row, np.uint8) for row in FLAT)),
        objects(*RAW),
    ],
    ids=lambda column: str(column.type if isinstance(column, pa.Array) else column.dtype),
)
def test_columns_become_tensors_of_the_declared_shape(column: Column) -> None:
    if isinstance(column, np.ndarray) and column.dtype == object and type(column[0]) is bytes:
        column = pa.array(column.tolist())
    [part] = prepared({"c": column}, PIXELS)
    assert part.tensors["x"].dtype == np.uint8
    assert part.tensors["x"].tolist() == NESTED
    assert part.numbers.tolist() == [5, 6]


@pytest.mark.parametrize(
    "column", [pa.array(FLAT, pa.list_(pa.uint8(), 4)), pa.array(RAW, pa.binary(4))]
)
def test_a_column_of_numbers_or_bytes_is_viewed_and_not_copied(column: pa.Array) -> None:
    [part] = prepared({"c": column}, PIXELS)
    buffers = [b for b in column.buffers() if b is not None]
    assert part.tensors["x"].ctypes.data in [buffer.address for buffer in buffers]


@pytest.mark.parametrize("data_type", [BFLOAT16, COMPLEX64])
def test_text_becomes_numbers_of_dtypes_that_arrow_lacks(data_type: int) -> None:
    dtype = dtypes.to_numpy(data_type)
    source = ColumnSource(("c",), dtype, TensorSpec(data_type, (-1,)))
    column = pa.array([" 1.5", "what", "2"])
    rows = Rows(start=0, stop=3, numbers=np.arange(3), columns={"c": column})
    [part] = prepare(rows, {"x": source}, ())
    assert (part.tensors["x"].dtype, part.tensors["x"].tolist()) == (dtype, [1.5, 2])
    assert [row.row for row in part.failed] == [1]


def test_several_columns_become_the_last_dimension() -> None:
    columns: dict[str, Column] = {
        "p0": pa.array(["1", "5"]),
        "p1": pa.array([" 2", "6 "]),
    }
    [part] = prepared(columns, TensorSpec(FLOAT, (-1, 2)), "float32")
    assert part.tensors["x"].tolist() == [[1, 2], [5, 6]]
    assert part.tensors["x"].dtype == np.float32


def test_bytes_of_floats_are_read_as_the_declared_dtype() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    column = pa.array([row.tobytes() for row in rows], pa.binary(16))
    [part] = prepared({"c": column}, TensorSpec(FLOAT, (-1, 2, 2)))
    assert part.tensors["x"].tolist() == rows.reshape(2, 2, 2).tolist()


def test_text_and_bytes_stay_what_they_are_for_a_model_of_strings() -> None:
    strings = TensorSpec(STRING, (-1,))
    for column in (pa.array(["a", "bc"]), objects("a", "bc"), np.array(["a", "bc"])):
        [part] = prepared({"c": column}, strings)
        assert part.tensors["x"].tolist() == ["a", "bc"]
    for column in (pa.array([b"ab", b"\0\0"], pa.binary(2)), pa.array([b"ab", b"\0\0"])):
        [part] = prepared({"c": column}, strings)
        assert part.tensors["x"].tolist() == [b"ab", b"\0\0"]


@pytest.mark.parametrize(
    ("data_type", "shape", "expected"),
    [
        (FLOAT, (-1, 512, 512, 3), 512 * 512 * 3 * 4),
        (UINT8, (-1, 28, 28), 28 * 28),
        (UINT8, (-1, -1, 100, -1), 256 * 100 * 3),
        (STRING, (-1,), 0),
    ],
)
def test_pictures_count_as_what_they_become(
    data_type: int, shape: tuple[int, ...], expected: int
) -> None:
    source = ColumnSource(("path",), None, TensorSpec(data_type, shape))
    column = np.array(["a.png", "b.png"], object)
    rows = Rows(start=0, stop=2, numbers=np.arange(2), columns={"path": column})
    [part] = prepare(rows, {"x": source}, ())
    assert part.picture_bytes == expected
    first, second = part.halves()
    assert first.picture_bytes == second.picture_bytes == expected


def test_encoded_pictures_of_equal_length_are_no_pixels() -> None:
    [part] = prepared({"c": pa.array([b"\x89PNG.", b"\x89PNG!"])}, PIXELS)
    assert part.tensors["x"].tolist() == [b"\x89PNG.", b"\x89PNG!"]


@pytest.mark.parametrize(
    ("column", "spec", "dtype", "bad", "reason"),
    [
        (pa.array([1.0, None, 3.0]), TWO["a"], None, 6, 'column "c": it has no value'),
        (
            pa.array([[1, 2], [3], [4, 5]]),
            TWO["b"],
            None,
            6,
            r'column "c": expected \[2\] in each row, got \[1\]',
        ),
        (pa.array([[1, 2], [3, None], [4, 5]]), TWO["b"], None, 6, "it has no value"),
        (pa.array(["1", "2", "x"]), TWO["a"], "float32", 7, "Failed to parse string: 'x'"),
        (objects([1, 2], [3, "x"], [4, 5]), TWO["b"], "int64", 6, "expected numbers, got"),
        (objects([1, 2], None, [4, 5]), TWO["b"], "int64", 6, "it has no value"),
        (objects([1, 2], [3.5, 4], [5, 6]), TWO["b"], "int64", 6, "a number that is not whole"),
        (objects([1, 2], [3, 300], [4, 5]), TWO["b"], "uint8", 6, "expected uint8, 0 to 255"),
        (pa.array([b"1234", b"123", b"1234"]), TWO["b"], None, 6, "got 3 bytes"),
    ],
)
def test_only_the_rows_that_dont_fit_fail(
    column: Column, spec: TensorSpec, dtype: str | None, bad: int, reason: str
) -> None:
    if isinstance(column, pa.Array) and pa.types.is_binary(column.type):
        spec = TensorSpec(UINT8, (-1, 4))
    [part] = prepared({"c": column}, spec, dtype)
    assert part.numbers.tolist() == [number for number in (5, 6, 7) if number != bad]
    assert len(part.tensors["x"]) == 2
    [failed] = part.failed
    assert failed.row == bad
    with pytest.raises(BatchError, match=reason):
        raise BatchError(failed.reason)


def test_rows_of_several_shapes_come_in_parts_of_one() -> None:
    lists = pa.array([[1], [2], [3, 4], [None], [5, 6], [7]])
    parts = prepared({"c": lists}, TensorSpec(INT64, (-1, -1)))
    assert [part.tensors["x"].tolist() for part in parts] == [[[1], [2]], [[3, 4], [5, 6]], [[7]]]
    assert [(part.start, part.stop) for part in parts] == [(5, 7), (7, 10), (10, 11)]
    assert [[failed.row for failed in part.failed] for part in parts] == [[], [8], []]


def test_rows_that_all_fail_are_a_part_without_tensors() -> None:
    [part] = prepared({"c": pa.array(["x", "y"])}, TWO["a"], "float32")
    assert (part.start, part.stop, len(part.numbers)) == (5, 7, 0)
    assert [failed.row for failed in part.failed] == [5, 6]


def test_a_part_is_cut_with_all_that_belongs_to_its_rows() -> None:
    part = Part(
        start=10,
        stop=20,
        numbers=np.array([10, 12, 13, 19]),
        tensors={"x": np.array([0, 2, 3, 9])},
        kept={"name": pa.array(["a", "b", "c", "d"])},
        failed=tuple(FailedRow(row, "", "") for row in (11, 14, 18)),
    )
    first, second = part.halves()
    assert (first.start, first.stop, second.start, second.stop) == (10, 13, 13, 20)
    assert (first.numbers.tolist(), second.numbers.tolist()) == ([10, 12], [13, 19])
    assert (first.tensors["x"].tolist(), second.tensors["x"].tolist()) == ([0, 2], [3, 9])
    assert first.kept["name"].tolist() == ["a", "b"]
    assert [failed.row for failed in first.failed] == [11]
    assert [failed.row for failed in second.failed] == [14, 18]
    before, after = part.cut_before(15)
    assert (before.stop, before.numbers.tolist()) == (15, [10, 12, 13])
    assert [failed.row for failed in after.failed] == [18]


TABLE = {"features": TensorSpec(FLOAT, (-1, 2))}


@pytest.mark.parametrize("rule", [(), ("features=*",), ("features=a,b,label",)])
def test_the_columns_of_the_training_are_taken_in_its_order(rule: tuple[str, ...]) -> None:
    bound = bind(TABLE, ["a", "label", "b"], *rule, of_card=("b", "a"))
    assert bound["features"][:2] == ("b", "a")


def test_a_column_of_the_training_that_the_file_has_not_is_named() -> None:
    with pytest.raises(BatchError, match="that the input has not: b; the columns are a, c"):
        bind(TABLE, ["a", "c"], of_card=("b", "a"))


def test_a_pattern_without_numbers_keeps_the_order_of_the_file() -> None:
    assert bind(TABLE, ["z", "a"], "features=*")["features"][:2] == ("z", "a")
    assert bind(TABLE, ["x10", "x9"], "features=*")["features"][:2] == ("x9", "x10")
