"""The protocol of all writers."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeAlias

from ladle.batch.rows import Answered


class Writer(Protocol):
    """Writes the predictions of one shard in one format, in the order of their rows."""

    def write(self, answered: Answered) -> None:
        """Write some rows, at least one; the writer may keep them in memory for a while.

        Raises:
            BatchError: The format has no place for a column.
            OSError: The file can't be written, as on a full disk.
        """

    def close(self) -> None:
        """Write everything that is still in memory."""


OpenFile: TypeAlias = "Callable[[str], BinaryIO]"
"""Opens a file of the shard for writing; takes what follows `part-00000` in the file's name."""

MakeWriter: TypeAlias = "Callable[[OpenFile], Writer]"
