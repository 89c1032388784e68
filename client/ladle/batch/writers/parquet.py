"""Predictions as Parquet: `part-00000.parquet`; needs pyarrow."""

from __future__ import annotations

from collections.abc import Set

import pyarrow as pa
import pyarrow.parquet as pq

from ladle.batch.errors import BatchError, one_line
from ladle.batch.rows import Answered
from ladle.batch.writers.tables import table
from ladle.batch.writers.writer import OpenFile

# A row group has this many rows, or fewer rows of about this many bytes.
ROWS_IN_GROUP = 1 << 15
BYTES_IN_GROUP = 16 << 20


class ParquetWriter:
    """Writes row groups of the same size, whatever sizes the answers have."""

    def __init__(self, open_file: OpenFile, *, lists: Set[str] = frozenset()) -> None:
        self._open_file = open_file
        self._lists = lists
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._rows_in_group = 0

    def write(self, answered: Answered) -> None:
        """Write some rows; see `Writer`."""
        if not self._rows_in_group:
            row_bytes = answered.nbytes / len(answered.numbers)
            self._rows_in_group = int(
                min(ROWS_IN_GROUP, max(1, BYTES_IN_GROUP // max(row_bytes, 1)))
            )
        self._waiting.append(table(answered, self._lists))
        self._rows += len(answered.numbers)
        while self._rows >= self._rows_in_group:
            self._flush(self._rows_in_group)

    def close(self) -> None:
        """Write the last row group and the footer; a second call does nothing."""
        try:
            if self._rows:
                self._flush(self._rows)
            if self._writer is not None:
                self._writer.close()
        finally:
            self._rows = 0
            if self._writer is not None:
                self._writer.is_open = False  # else pyarrow writes again when it is collected
                self._writer = None

    def _flush(self, rows: int) -> None:
        try:
            waiting = pa.concat_tables(self._waiting)
            if self._writer is None:
                # A dictionary of values makes writing ten times slower, and numbers of a model
                # seldom repeat. Text often does.
                text = [field.name for field in waiting.schema if pa.types.is_string(field.type)]
                self._writer = pq.ParquetWriter(
                    self._open_file(".parquet"), waiting.schema, use_dictionary=text
                )
            self._writer.write_table(waiting.slice(0, rows))
        except (pa.ArrowInvalid, ValueError) as error:
            raise BatchError(
                f"rows are of another type than those before: {one_line(error)}"
            ) from None
        self._waiting = [waiting.slice(rows)]
        self._rows -= rows
