"""The protocol of all readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ladle.batch.rows import Rows


class Reader(Protocol):
    """Reads the rows of files. Rows are numbered from 0 through all files. For one thread."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order."""

    @property
    def total_rows(self) -> int | None:
        """How many rows there are; None where only a reading of the whole input would show it."""

    @property
    def is_text(self) -> bool:
        """Whether numbers have no dtype in files of this format."""

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield the rows from number `start` on, with the columns `wanted`.

        Each chunk has about CHUNK_BYTES. A row that can't be read is in its chunk's `failed`.

        Raises:
            BatchError: A file is damaged.
            OSError: A file can't be read.
        """
