"""Rows that are image files.

Images are decoded later, by the thread that sends their request, so that several threads decode.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ladle.batch.readers.chunks import CHUNK_BYTES
from ladle.batch.rows import Column, FailedRow, Rows, objects

PATH = "path"
BYTES = "bytes"
_AT_A_TIME = 64


class ImageReader:
    """Gives the paths of files and, if wanted, their bytes; see `Reader`."""

    columns = (PATH, BYTES)
    is_text = False

    def __init__(self, paths: Sequence[Path], name_of: Callable[[Path], str] = str) -> None:
        """Take the files, and what the caller calls each of them."""
        self._images = paths
        self._name_of = name_of
        self.total_rows: int | None = len(paths)

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        begin = start
        while begin < len(self._images):
            contents: list[bytes] = []
            numbers: list[int] = []
            failed: list[FailedRow] = []
            nbytes = 0
            stop = begin
            while stop < min(begin + _AT_A_TIME, len(self._images)) and nbytes < CHUNK_BYTES:
                path = self._images[stop]
                try:
                    if path.exists() and not path.is_file():  # a pipe would keep the reader waiting
                        raise OSError(errno.EINVAL, "expected a file")
                    contents.append(path.read_bytes() if BYTES in wanted else b"")
                    numbers.append(stop)
                    nbytes += len(contents[-1])
                except OSError as error:
                    failed.append(
                        FailedRow(
                            stop, "INVALID_ARGUMENT", f"{self._name_of(path)}: {error.strerror}"
                        )
                    )
                stop += 1
            columns: dict[str, Column] = {
                PATH: objects([self._name_of(self._images[number]) for number in numbers])
            }
            if BYTES in wanted:
                columns[BYTES] = objects(contents)
            yield Rows(
                start=begin,
                stop=stop,
                numbers=np.array(numbers, np.int64),
                columns=columns,
                failed=tuple(failed),
                share=stop / len(self._images),
            )
            begin = stop
