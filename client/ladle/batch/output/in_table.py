"""Predictions gathered in memory, and put beside the rows that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import pyarrow as pa

from ladle.batch.errors import BatchError, one_line
from ladle.batch.rows import Answered
from ladle.batch.writers import names
from ladle.batch.writers.tables import table as as_table

ERROR = "error"
"""The column that says why a row has no prediction; null where it has one."""


class TableOutput:
    """Gathers answers; a `Destination`."""

    share = share_before = 0.0
    rows = failed = 0

    def __init__(self, lists: Set[str]) -> None:
        """Begin at row 0; the outputs in `lists` become lists of any size."""
        self.next_row = 0
        self.tables: list[pa.Table] = []
        """The outputs of rows that were answered, with their numbers."""
        self.errors: dict[int, str] = {}
        """Why the others were not, by their numbers."""
        self._lists = lists

    def write(self, answered: Answered) -> None:
        """Take the rows that follow the last ones."""
        self.next_row = answered.stop
        for failed in answered.failed:
            self.errors[failed.row] = f"{failed.code}: {failed.reason}"
        if len(answered.numbers):
            names.check((), answered.outputs)
            self.tables.append(as_table(answered, self._lists))

    def finish(self) -> None:
        """Do nothing: all is gathered."""

    def discard(self) -> None:
        """Do nothing: who gave up has no use for it."""


def beside(
    given: pa.Table,
    keep: Sequence[str],
    answered: Sequence[pa.Table],
    errors: Mapping[int, str],
) -> pa.Table:
    """Return the kept columns of a table, what was predicted for each of its rows, and `error`.

    Args:
        given: the table that was predicted.
        keep: its columns that stay.
        answered: at least one table of outputs, with the numbers of their rows; all together they
            have each row that is not in `errors` once.
        errors: why the other rows have no outputs, which are null there.

    Raises:
        BatchError: Two columns would have one name, or requests were answered in other forms.
    """
    try:
        outputs = pa.concat_tables(answered)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise BatchError(f"requests were answered in different forms: {one_line(error)}") from None
    columns = [*keep, *(name for name in outputs.column_names if name != names.ROW), ERROR]
    for name in columns:
        if columns.count(name) > 1:
            raise names.two_columns(name)
    rows = outputs.column(names.ROW).to_numpy()
    positions = np.full(given.num_rows, -1, np.int64)
    positions[rows] = np.arange(len(rows))
    taken = outputs.drop_columns([names.ROW]).take(pa.array(positions, mask=positions < 0))
    why = pa.array([errors.get(row) for row in range(given.num_rows)], pa.string())
    kept = {name: given.column(name) for name in keep}
    predicted = dict(zip(taken.column_names, taken.columns, strict=True))
    return pa.table({**kept, **predicted, ERROR: why})
