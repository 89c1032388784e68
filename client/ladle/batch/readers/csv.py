"""Rows of CSV files with a header; needs pyarrow.

All is read as text, and made into numbers for the model: a column's type would have to be guessed
from its first rows, and one row that is otherwise would end the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.chunks import CHUNK_BYTES
from ladle.batch.rows import FailedRow, Rows


class CsvReader:
    """Reads blocks of lines; empty lines are no rows; see `Reader`."""

    is_text = True
    total_rows = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._bytes = [path.stat().st_size for path in paths]
        self.columns: tuple[str, ...] = ()
        for path in paths:
            names = _header(path)
            if self.columns and names != self.columns:
                raise BatchError(
                    f"{path}: expected the columns {', '.join(self.columns)}, as in "
                    f"{paths[0]}, got {', '.join(names)}"
                )
            self.columns = names
        if len(set(self.columns)) < len(self.columns):
            raise BatchError(f"{paths[0]}: two columns have the same name")

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        first = bytes_before = 0
        total = max(sum(self._bytes), 1)
        for path, size in zip(self._paths, self._bytes, strict=True):
            stop = first
            for rows, done in _read(path, first, wanted):
                stop = rows.stop
                if stop > start:
                    yield _from(rows, start, (bytes_before + min(done, size)) / total)
            first = stop
            bytes_before += size


def _read(path: Path, first: int, wanted: Sequence[str]) -> Iterator[tuple[Rows, int]]:
    """Yield the rows of a file, whose first is number `first`, and how many bytes they took."""
    failed: list[FailedRow] = []

    def remember(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"expected {row.expected_columns} columns, got {row.actual_columns}"
        failed.append(FailedRow(first + row.number - 2, "INVALID_ARGUMENT", reason))
        return "skip"

    start = first
    with path.open("rb") as file:
        try:
            blocks = pyarrow.csv.open_csv(
                file,
                # Only then are rows told by their number.
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=remember),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=list(wanted),
                    column_types=dict.fromkeys(wanted, pa.string()),
                    strings_can_be_null=False,
                ),
            )
            for block in blocks:
                # Rows that were told before their neighbours are read wait for them.
                count = block.num_rows
                bad, stop = _between(failed, start, count)
                failed = [row for row in failed if row.row >= stop]
                are_bad = np.zeros(stop - start, bool)
                are_bad[[row.row - start for row in bad]] = True
                yield (
                    Rows(
                        start=start,
                        stop=stop,
                        numbers=start + np.flatnonzero(~are_bad),
                        columns={name: block.column(name) for name in wanted},
                        failed=tuple(bad),
                    ),
                    file.tell(),
                )
                start = stop
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise BatchError(f"{path}: {one_line(error)}") from None
    if failed:
        yield (
            Rows(
                start=start,
                stop=failed[-1].row + 1,
                numbers=np.empty(0, np.int64),
                columns={name: pa.array([], pa.string()) for name in wanted},
                failed=tuple(failed),
            ),
            0,
        )


def _between(failed: list[FailedRow], start: int, count: int) -> tuple[list[FailedRow], int]:
    """Return which rows failed from `start` on, until `count` others are there, and the end."""
    stop = start + count
    among = []
    for row in failed:
        if row.row >= stop:
            break
        among.append(row)
        stop += 1
    return among, stop


def _from(rows: Rows, start: int, share: float) -> Rows:
    kept = int(np.searchsorted(rows.numbers, start))
    return Rows(
        start=max(rows.start, start),
        stop=rows.stop,
        numbers=rows.numbers[kept:],
        columns={name: column[kept:] for name, column in rows.columns.items()},
        failed=tuple(row for row in rows.failed if row.row >= start),
        share=share,
    )


def _header(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as file:
            opened = pyarrow.csv.open_csv(
                file,
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES),
                parse_options=pyarrow.csv.ParseOptions(invalid_row_handler=lambda row: "skip"),
            )
            return tuple(opened.schema.names)
    except pa.ArrowInvalid as error:
        raise BatchError(f"{path}: it can't be read as CSV: {one_line(error)}") from None
