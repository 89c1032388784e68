"""Which reader reads which format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ladle.batch.readers.reader import Reader

TEXT_FORMATS = frozenset(("csv", "jsonl"))
"""Formats in whose files numbers have no dtype; see `Reader.is_text`."""


def open_reader(
    input_format: str, paths: Sequence[Path], name_of: Callable[[Path], str] = str
) -> Reader:
    """Open files of a format; `name_of` returns what the caller calls an image.

    Raises:
        BatchError: A file is not of that format, or has other columns than the first file.
        OSError: A file can't be read.
        ModuleNotFoundError: The format needs a package that is not installed.
    """
    # Imported here, because only some formats need pyarrow.
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

            return ImageReader(paths, name_of)
    raise ValueError(f"unknown format {input_format}")
