"""Rows of CSV files with a header; needs pyarrow.

Everything is read as text, which becomes numbers for the model later. Arrow would guess a column's
type from its first rows, and one row of another type would end the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.chunks import CHUNK_BYTES
from ladle.batch.readers.streams import open_text
from ladle.batch.rows import FailedRow, Rows


class CsvReader:
    """Reads blocks of lines, also of files in gzip; empty lines are no rows; see `Reader`."""

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
            for rows, done in _read(path, first, wanted, self.columns[-1]):
                stop = rows.stop
                if stop > start:
                    yield _from(rows, start, (bytes_before + min(done, size)) / total)
            first = stop
            bytes_before += size


def _read(
    path: Path, first: int, wanted: Sequence[str], last_column: str
) -> Iterator[tuple[Rows, int]]:
    """Yield the rows of a file, whose first is number `first`, and how many bytes they took."""
    ragged: list[FailedRow] = []
    last = (-1, b"")  # the last row, and the text at its end

    def remember(row: pyarrow.csv.InvalidRow) -> str:
        nonlocal last
        number = first + row.number - 2
        last = max(last, (number, row.text.encode()))
        reason = f"expected {row.expected_columns} columns, got {row.actual_columns}"
        ragged.append(FailedRow(number, "INVALID_ARGUMENT", reason))
        return "skip"

    start = first
    with open_text(path) as stream, _read_errors(path):
        file = _TailedFile(stream.file)
        blocks = _open_csv(
            file,
            remember,
            pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys([*wanted, last_column])),
                # Text that is no UTF-8 fails its row, and not the whole block.
                column_types=dict.fromkeys([*wanted, last_column], pa.binary()),
                strings_can_be_null=False,
            ),
        )
        while True:
            try:
                block = blocks.read_next_batch()
            except StopIteration:
                break
            except pa.ArrowInvalid as error:
                raise BatchError(f"{path}: at row {start} or later: {_reason(error)}") from None
            # Rows that are reported before their neighbours are read wait for them.
            among, stop = _between(ragged, start, block.num_rows)
            ragged = [row for row in ragged if row.row >= stop]
            are_ragged = np.zeros(stop - start, bool)
            are_ragged[[row.row - start for row in among]] = True
            numbers = start + np.flatnonzero(~are_ragged)
            if len(numbers):
                last = max(last, (int(numbers[-1]), block.column(last_column)[-1].as_py()))
            columns, are_text, unreadable = _as_text(block, wanted, numbers)
            yield (
                Rows(
                    start=start,
                    stop=stop,
                    numbers=numbers[are_text],
                    columns=columns,
                    failed=tuple(sorted([*among, *unreadable])),
                ),
                stream.done_bytes,
            )
            start = stop
        # Arrow takes the end of the file for the end of a quote, with all rows that are behind it.
        if b"\n" in last[1] and file.last_visible != b'"':
            raise BatchError(f"{path}: at row {last[0]} or later: a quote is not closed")
    if ragged:
        yield (
            Rows(
                start=start,
                stop=ragged[-1].row + 1,
                numbers=np.empty(0, np.int64),
                columns={name: pa.array([], pa.string()) for name in wanted},
                failed=tuple(ragged),
            ),
            0,
        )


def _as_text(
    block: pa.RecordBatch, wanted: Sequence[str], numbers: NDArray[np.int64]
) -> tuple[dict[str, pa.Array], NDArray[np.bool_], list[FailedRow]]:
    """Return the columns as text, which rows have it in all columns, and the other rows."""
    are_text = np.ones(len(numbers), bool)
    failed: list[FailedRow] = []
    columns = {}
    for name in wanted:
        column = block.column(name)
        try:
            columns[name] = column.cast(pa.string())
            continue
        except pa.ArrowInvalid:
            pass
        values = []
        for position, value in enumerate(column.to_pylist()):
            values.append(value.decode(errors="replace"))
            if are_text[position] and values[-1].encode() != value:
                are_text[position] = False
                reason = f'column "{name}": expected UTF-8 text, got {value!r:.50}'
                failed.append(FailedRow(int(numbers[position]), "INVALID_ARGUMENT", reason))
        columns[name] = pa.array(values, pa.string())
    if failed:
        columns = {name: column.filter(pa.array(are_text)) for name, column in columns.items()}
    return columns, are_text, failed


class _TailedFile:
    """A file that knows how it ends, and always ends with a newline; has what Arrow needs.

    Without the newline Arrow takes a header alone for an empty file.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._has_ended = False
        self._last = self.last_visible = b""
        """The last byte that was read, and the last byte that is no white space."""

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and not self._has_ended:
            more = self._file.read(size - len(data))
            self._has_ended = not more
            self._last = more[-1:] or self._last
            self.last_visible = more.rstrip()[-1:] or self.last_visible
            data += more
            if self._has_ended and self._last not in (b"", b"\n"):
                data += b"\n"
        return data


def _open_csv(
    file: _TailedFile,
    remember: Callable[[pyarrow.csv.InvalidRow], str],
    convert: pyarrow.csv.ConvertOptions | None = None,
) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        file,
        # Rows are reported with their numbers only to one thread.
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(
            invalid_row_handler=remember, newlines_in_values=True
        ),
        convert_options=convert,
    )


def _reason(error: Exception) -> str:
    if "straddl" in str(error):
        return f"a quote is not closed, or a row is longer than {CHUNK_BYTES:,} bytes"
    return one_line(error)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeDecodeError) as error:
        raise BatchError(f"{path}: it can't be read as CSV: {_reason(error)}") from None


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
    with open_text(path) as stream, _read_errors(path):
        return tuple(_open_csv(_TailedFile(stream.file), lambda row: "skip").schema.names)
