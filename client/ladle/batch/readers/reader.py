"""What all readers are, and which one reads what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from ladle.batch.rows import Rows

CHUNK_BYTES = 8 << 20
"""About how much of the input is read at a time."""
MAX_CHUNK_ROWS = 1 << 16
MAX_REQUEST_ROWS = 512
"""TensorFlow Serving refuses requests beyond its max_batch_size, 1000 unless it is told another."""


class Reader(Protocol):
    """Reads the rows of files, which are numbered from 0 through all of them."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what a row has, in order."""

    @property
    def total_rows(self) -> int | None:
        """How many rows there are; None where only reading all would tell."""

    @property
    def is_text(self) -> bool:
        """Whether numbers have no dtype in files of this format."""

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield the rows from number `start` on, with the columns that are wanted.

        They come in pieces of about CHUNK_BYTES. A row that is not as it should be is told as
        failed.

        Raises:
            BatchError: A file is damaged.
            OSError: It can't be read.
        """


def open_reader(input_format: str, paths: Sequence[Path]) -> Reader:
    """Open files of a format.

    Raises:
        BatchError: One is not of that format, or has not the columns of the first.
        OSError: One can't be read.
        ModuleNotFoundError: The format takes a package that is not installed.
    """
    # Each where it is wanted: only some formats need pyarrow.
    match input_format:
        case "npy" | "npz":
            from ladle.batch.readers.npy import NpyReader

            return NpyReader(paths)
        case "parquet":
            from ladle.batch.readers.parquet import ParquetReader

            return ParquetReader(paths)
        case "csv":
            from ladle.batch.readers.csv import CsvReader

            return CsvReader(paths)
        case "jsonl":
            from ladle.batch.readers.jsonl import JsonlReader

            return JsonlReader(paths)
        case "tfrecord":
            from ladle.batch.readers.tfrecord import TFRecordReader

            return TFRecordReader(paths)
        case "images":
            from ladle.batch.readers.images import ImageReader

            return ImageReader(paths)
    raise ValueError(f"unknown format {input_format}")


def chunk_rows(row_bytes: float) -> int:
    """Return how many rows of about this size are read at a time."""
    rows = int(min(max(CHUNK_BYTES / max(row_bytes, 1.0), 1), MAX_CHUNK_ROWS))
    # Whole requests, of which the largest have that many rows.
    return rows - rows % MAX_REQUEST_ROWS if rows > MAX_REQUEST_ROWS else rows
