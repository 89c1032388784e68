"""Rows of a table of Arrow's that is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from ladle.batch.readers.chunks import chunk_rows
from ladle.batch.rows import Rows


class TableReader:
    """Gives slices of the table, without a copy; see `Reader`."""

    is_text = False

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.columns: tuple[str, ...] = tuple(table.column_names)
        self.total_rows: int | None = table.num_rows

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        total = self._table.num_rows
        if start >= total:
            return
        rows = self._table.select(list(wanted)).slice(start)
        number = start
        for batch in rows.to_batches(max_chunksize=chunk_rows(rows.nbytes / (total - start))):
            stop = number + batch.num_rows
            yield Rows(
                start=number,
                stop=stop,
                numbers=np.arange(number, stop),
                columns={name: batch.column(name) for name in wanted},
                share=stop / total,
            )
            number = stop
