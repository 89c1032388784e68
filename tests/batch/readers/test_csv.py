"""CSV in blocks: rows are those of Python's own reader, with their numbers, wherever blocks end."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.batch.readers import csv as reader
from ladle.batch.readers.opening import open_reader

CELL = st.text(st.sampled_from('ab ,"\n\r1é'), max_size=8)
# Blocks of this size hold a few rows; the longest row has less.
BLOCK_BYTES = 128


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=30),
    start=st.integers(0, 30),
    newline=st.sampled_from(["\n", "\r\n"]),
    ends=st.booleans(),
)
def test_rows_are_those_of_pythons_reader(
    rows: list[list[str]],
    start: int,
    newline: str,
    ends: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "CHUNK_BYTES", BLOCK_BYTES)
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator=newline)
    writer.writerows([["a", "b"], *rows])
    content = text.getvalue()
    path = tmp_path / "a.csv"
    path.write_text(content if ends else content.removesuffix(newline), newline="")
    expected = {n: tuple(row) for n, row in enumerate(rows) if len(row) == 2}
    opened = open_reader("csv", [path])
    assert opened.columns == ("a", "b")
    found: dict[int, tuple[str, str]] = {}
    failed: set[int] = set()
    following = start
    for chunk in opened.read(start, ("b", "a")):
        assert chunk.start == following
        following = chunk.stop
        a, b = ([str(text) for text in chunk.columns[name]] for name in "ab")
        found |= dict(zip(chunk.numbers.tolist(), zip(a, b, strict=True), strict=True))
        failed |= {row.row for row in chunk.failed}
    assert found == {n: row for n, row in expected.items() if n >= start}
    assert failed == {n for n, row in enumerate(rows) if len(row) != 2 and n >= start}
