"""TFRecord files: reads what TensorFlow and everybody's warm-up scripts write.

A record is its length (uint64), that length's checksum, the data, and the data's checksum; all
little-endian. The checksums are CRC-32C, rotated and shifted so that a checksum of data that holds
checksums stays a good one. Needs google-crc32c, which nothing else of this package does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from ladle.protos.files.regular_file import open_regular

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_UINT32 = 0xFFFFFFFF


class RecordError(ValueError):
    """A file is no TFRecord file, or a damaged one; the text names it and where."""


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, one at a time; reads no more than the file holds.

    Raises:
        OSError: The file can't be read, or is no regular file.
        RecordError: At the first record that is cut off or altered.
    """
    with open_regular(path) as file:
        yield from read_stream(file, path, os.fstat(file.fileno()).st_size)


def read_stream(
    file: BinaryIO, path: Path, size: int, most_bytes: int | None = None
) -> Iterator[bytes]:
    """Yield the records of an open file of at most `size` bytes; each has at most `most_bytes`.

    Raises:
        OSError: The file can't be read.
        RecordError: At the first record that is cut off, altered or too large; names `path`.
    """
    start = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise _damaged(path, start, f"expected {_HEADER.size} bytes more of it")
        if not is_header(header):
            raise _damaged(path, start, "the checksum of its length is wrong")
        length = _HEADER.unpack(header)[0]
        # Asked of the file before memory is taken: a length is only a number.
        left = size - start - _HEADER.size
        if length + _FOOTER.size > left:
            raise _damaged(path, start, f"expected {length} bytes and 4, {left} are left")
        if most_bytes is not None and length > most_bytes:
            raise _damaged(path, start, f"expected at most {most_bytes} bytes, got {length}")
        data = file.read(length)
        footer = file.read(_FOOTER.size)
        if len(footer) < _FOOTER.size or _FOOTER.unpack(footer)[0] != masked_checksum(data):
            raise _damaged(path, start, "its checksum is wrong")
        yield data
        start += _HEADER.size + length + _FOOTER.size


def is_header(data: bytes) -> bool:
    """Tell whether bytes begin a record: a length with its checksum."""
    if len(data) < _HEADER.size:
        return False
    _, checksum = _HEADER.unpack_from(data)
    return masked_checksum(data[:8]) == int(checksum)


def frame(data: bytes) -> bytes:
    """Return the data as one record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    ends = struct.pack("<I", masked_checksum(length)), struct.pack("<I", masked_checksum(data))
    return length + ends[0] + data + ends[1]


def masked_checksum(data: bytes) -> int:
    """Return the checksum as TFRecord files have it."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _UINT32


def _damaged(path: Path, start: int, what: str) -> RecordError:
    return RecordError(
        f"{path}: the record at byte {start} is damaged: {what}; "
        "please check that the file is in TFRecord format, uncompressed"
    )
