"""Each row becomes a part of a tensor or fails alone, whatever is among the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.batch.columns.mapping import ColumnSource
from ladle.batch.columns.tensors import prepare
from ladle.batch.rows import FailedRow, Part, Rows, objects
from ladle.client.models import TensorSpec
from ladle.protos import dtypes


def source(*shape: int, dtype: Any = np.float32) -> dict[str, ColumnSource]:
    declared = np.dtype(dtype)
    spec = TensorSpec(data_type=dtypes.from_numpy(declared), shape=(-1, *shape))
    return {"x": ColumnSource(("x",), declared, spec)}


def prepared(values: list[Any], sources: dict[str, ColumnSource], *unread: int) -> list[Part]:
    """Prepare rows with these values; rows that are `unread` have none."""
    good = [n for n in range(len(values)) if n not in unread]
    rows = Rows(
        start=0,
        stop=len(values),
        numbers=np.array(good, np.int64),
        columns={"x": objects([values[n] for n in good]), "k": objects([f"k{n}" for n in good])},
        failed=tuple(FailedRow(n, "BAD", "unread") for n in unread),
    )
    return list(prepare(rows, sources, ("k",)))


JSON = st.one_of(
    st.integers(-9, 9),
    st.floats(-9, 9, width=32),
    st.booleans(),
    st.none(),
    st.just("text"),
    st.lists(st.integers(-9, 9), max_size=3),
    st.lists(st.lists(st.integers(-9, 9), max_size=2), max_size=2),
    st.dictionaries(st.just("y"), st.integers(), max_size=1),
)


@given(values=st.lists(JSON, min_size=1, max_size=40), unread=st.sets(st.integers(0, 39)))
@pytest.mark.parametrize("shape", [(), (2,), (-1,)])
def test_rows_among_others_become_what_they_become_alone(
    shape: tuple[int, ...], values: list[Any], unread: set[int]
) -> None:
    sources = source(*shape)
    unread_here = sorted(n for n in unread if n < len(values))
    parts = prepared(values, sources, *unread_here)
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]
    assert (parts[0].start, parts[-1].stop) == (0, len(values))
    rows: dict[int, Any] = {}
    failed: set[int] = set()
    for part in parts:
        assert all(part.start <= n < part.stop for n in part.numbers)
        assert list(part.kept["k"]) == [f"k{n}" for n in part.numbers]
        for index, number in enumerate(part.numbers.tolist()):
            rows[number] = part.tensors["x"][index].tolist()
        failed |= {row.row for row in part.failed}
        assert all(part.start <= row.row < part.stop for row in part.failed)
    assert not failed & rows.keys()
    assert failed | rows.keys() == set(range(len(values)))
    assert failed >= set(unread_here)
    for number, value in enumerate(values):
        if number in unread_here:
            continue
        [alone] = prepared([value], sources)
        if alone.failed:
            assert number in failed
        else:
            assert rows[number] == alone.tensors["x"][0].tolist()


def test_rows_of_one_shape_stay_one_part_around_a_bad_row() -> None:
    values: list[Any] = [[1, 2], [3, 4], "bad", [5, 6], [7]]
    [part] = prepared(values, source(2))
    assert part.numbers.tolist() == [0, 1, 3]
    assert part.tensors["x"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert [row.row for row in part.failed] == [2, 4]


def test_rows_of_other_shapes_are_parts_of_their_own() -> None:
    values: list[Any] = [[1], [2], "bad", [3, 4], [5, 6], [7]]
    parts = prepared(values, source(-1))
    assert [part.numbers.tolist() for part in parts] == [[0, 1], [3, 4], [5]]
    assert [part.tensors["x"].shape for part in parts] == [(2, 1), (2, 2), (1, 1)]
    assert [[row.row for row in part.failed] for part in parts] == [[2], [], []]


def test_rows_that_all_fail_are_a_part_with_nothing_to_send() -> None:
    [part] = prepared(["a", None], source())
    assert (part.start, part.stop, len(part.numbers), part.tensors) == (0, 2, 0, {})
    assert [row.row for row in part.failed] == [0, 1]
