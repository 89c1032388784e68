"""Predictions as CSV with a header: `part-00000.csv`; needs pyarrow."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ladle.batch.errors import BatchError
from ladle.batch.rows import Answered
from ladle.batch.writers.tables import scalar_columns, table
from ladle.batch.writers.writer import OpenFile


class CsvWriter:
    """Writes rows as they come."""

    def __init__(self, open_file: OpenFile) -> None:
        self._open_file = open_file
        self._writer: pyarrow.csv.CSVWriter | None = None

    def write(self, answered: Answered) -> None:
        """Write some rows; see `Writer`."""
        rows = _as_text(scalar_columns(table(answered)))
        if self._writer is None:
            self._schema = rows.schema
            self._writer = pyarrow.csv.CSVWriter(self._open_file(".csv"), rows.schema)
        if rows.schema != self._schema:  # pyarrow doesn't compare the schemas
            raise BatchError(
                f"rows are of another type than those before: expected {_listing(self._schema)}, "
                f"got {_listing(rows.schema)}"
            )
        self._writer.write_table(rows)

    def close(self) -> None:
        """Write the rest; see `Writer`."""
        if self._writer is not None:
            self._writer.close()


def _listing(schema: pa.Schema) -> str:
    fields = [f"{field.name} {field.type}" for field in schema]
    shown = ", ".join(fields[:8])
    return f"{shown} and {len(fields) - 8} more" if len(fields) > 8 else shown


def _as_text(rows: pa.Table) -> pa.Table:
    """Return the table with bytes as text.

    Raises:
        BatchError: Bytes are no UTF-8.
    """
    for index, name in enumerate(rows.column_names):
        column = rows.column(index)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            try:
                text = pc.cast(column, pa.string())
            except pa.ArrowInvalid:
                raise BatchError(
                    f'column "{name}" holds bytes that are no UTF-8, which CSV has no place for; '
                    "write parquet or jsonl"
                ) from None
            rows = rows.set_column(index, name, text)
    return rows
