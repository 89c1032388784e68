"""Rows of Parquet files; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.chunks import chunk_rows
from ladle.batch.rows import Rows

# Column chunks are read through a buffer of this size. Without it pyarrow reads a whole row group,
# which may be as large as the file.
_BUFFER_BYTES = 1 << 20
_PROBE_ROWS = 64


class ParquetReader:
    """Reads record batches; see `Reader`."""

    is_text = False

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._rows: list[int] = []
        self.columns: tuple[str, ...] = ()
        for path in paths:
            with _open(path) as file:
                names = tuple(file.schema_arrow.names)
                if len(set(names)) < len(names):
                    raise BatchError(f"{path}: two columns have the same name")
                if not self._rows:
                    self.columns = names
                elif not set(self.columns) <= set(names):
                    raise BatchError(
                        f"{path}: expected the columns {', '.join(self.columns)}, as in "
                        f"{paths[0]}, got {', '.join(names)}"
                    )
                self._rows.append(file.metadata.num_rows)
        self.total_rows: int | None = sum(self._rows)

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        first = 0
        total = self.total_rows or 1
        for path, rows in zip(self._paths, self._rows, strict=True):
            if start < first + rows:
                number = max(start, first)
                for batch in _read(path, number - first, wanted):
                    stop = number + batch.num_rows
                    yield Rows(
                        start=number,
                        stop=stop,
                        numbers=np.arange(number, stop),
                        columns={name: batch.column(name) for name in wanted},
                        share=stop / total,
                    )
                    number = stop
            first += rows


def row_groups(file: BinaryIO, name: object) -> list[int]:
    """Return how many rows each row group of an open file has; `name` is for messages.

    Raises:
        BatchError: It is no Parquet file.
    """
    try:
        metadata = pq.read_metadata(file)
    except pa.ArrowInvalid as error:
        raise BatchError(f"{name}: it can't be read as Parquet: {one_line(error)}") from None
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]


def _read(path: Path, skipped: int, wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with _open(path) as file:
        groups: list[int] = []
        for index in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if not groups and skipped >= rows:
                skipped -= rows
            else:
                groups.append(index)
        try:
            for batch in file.iter_batches(
                _chunk_rows(file, groups, wanted),
                row_groups=groups,
                columns=list(wanted),
                use_threads=False,
            ):
                whole = batch.slice(min(skipped, batch.num_rows))
                skipped -= batch.num_rows - whole.num_rows
                if whole.num_rows:
                    yield whole
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise BatchError(f"{path}: {one_line(error)}") from None


def _chunk_rows(file: pq.ParquetFile, groups: list[int], wanted: Sequence[str]) -> int:
    """Return how many rows to read at a time.

    A few rows are read to measure them. The sizes in the metadata say little, because repeated
    values are in the file once.
    """
    probe = file.iter_batches(_PROBE_ROWS, row_groups=groups[:1], columns=list(wanted))
    first = next(probe, None)
    return chunk_rows(first.nbytes / first.num_rows if first is not None and first.num_rows else 1)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise BatchError(f"{path}: it can't be read as Parquet: {one_line(error)}") from None
