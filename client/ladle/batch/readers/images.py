"""Rows that are image files.

Pixels are not read here: what sends a request decodes its images, so that as many threads do as
there are requests in flight.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ladle.batch.rows import Column, FailedRow, Rows

PATH = "path"
BYTES = "bytes"
_AT_A_TIME = 64


class ImageReader:
    """Gives paths and, where they are wanted, the bytes of the files; see `Reader`."""

    columns = (PATH, BYTES)
    is_text = False

    def __init__(self, paths: Sequence[Path]) -> None:
        self._images = paths
        self.total_rows: int | None = len(paths)

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        for begin in range(start, len(self._images), _AT_A_TIME):
            paths = self._images[begin : begin + _AT_A_TIME]
            contents: list[bytes] = []
            numbers: list[int] = []
            failed: list[FailedRow] = []
            for number, path in enumerate(paths, begin):
                try:
                    contents.append(path.read_bytes() if BYTES in wanted else b"")
                    numbers.append(number)
                except OSError as error:
                    failed.append(
                        FailedRow(number, "INVALID_ARGUMENT", f"{path}: {error.strerror}")
                    )
            columns: dict[str, Column] = {
                PATH: _objects([str(self._images[number]) for number in numbers])
            }
            if BYTES in wanted:
                columns[BYTES] = _objects(contents)
            yield Rows(
                start=begin,
                stop=begin + len(paths),
                numbers=np.array(numbers, np.int64),
                columns=columns,
                failed=tuple(failed),
                share=(begin + len(paths)) / len(self._images),
            )


def _objects(values: Sequence[object]) -> Column:
    array = np.empty(len(values), object)
    array[:] = values
    return array
