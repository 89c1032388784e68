"""Files as streams of bytes, decompressed, with a clear error for what is no stream of theirs."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias, cast

from ladle.batch.errors import BatchError, one_line

GZIP_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 1 << 16
_MAGIC_BYTES = 8

Compression: TypeAlias = Literal["gzip", "zlib"] | None

# What text files begin with that are no UTF-8.
_NOT_UTF8 = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"(\xb5/\xfd": "a Zstandard file",
    b"PK\x03\x04": "a ZIP archive",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "an array of numpy's",
}


@dataclass(frozen=True)
class Stream:
    """An open file."""

    file: BinaryIO
    """The bytes, decompressed."""
    raw: BinaryIO
    """The bytes as they are on the disk."""

    @property
    def done_bytes(self) -> int:
        """How many bytes of the file on the disk have been read."""
        return self.raw.tell()


@contextmanager
def open_stream(path: Path, compression: Compression) -> Iterator[Stream]:
    """Open a file for reading.

    Raises:
        BatchError: In the block, where compressed data is damaged or cut off.
        OSError: The file can't be read.
    """
    with path.open("rb") as raw:
        try:
            if compression == "gzip":
                with gzip.GzipFile(fileobj=raw) as file:
                    yield Stream(cast(BinaryIO, file), raw)
            elif compression == "zlib":
                yield Stream(cast(BinaryIO, _ZlibFile(raw)), raw)
            else:
                yield Stream(raw, raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BatchError(f"{path}: it can't be decompressed: {one_line(error)}") from None


@contextmanager
def open_text(path: Path) -> Iterator[Stream]:
    """Open a UTF-8 text file, which may be compressed with gzip, behind its byte order mark.

    Raises:
        BatchError: The file begins as no UTF-8 text does, or compressed data is damaged.
        OSError: The file can't be read.
    """
    with path.open("rb") as raw:
        compression: Compression = "gzip" if raw.read(2) == GZIP_MAGIC else None
    with open_stream(path, compression) as stream:
        begin = stream.file.read(_MAGIC_BYTES)
        for magic, name in _NOT_UTF8.items():
            if begin.startswith(magic):
                raise BatchError(f"{path}: expected UTF-8 text, got {name}")
        if b"\0" in begin[:4]:
            raise BatchError(f"{path}: expected UTF-8 text, got NUL bytes, as in UTF-16")
        stream.file.seek(3 if begin.startswith(b"\xef\xbb\xbf") else 0)
        yield stream


class _ZlibFile:
    """Decompresses a file of zlib's format as it is read; has only `read`."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor = zlib.decompressobj()
        self._ready = b""

    def read(self, size: int) -> bytes:
        """Return that many bytes, or fewer at the end."""
        pieces = [self._ready]
        length = len(self._ready)
        while length < size and not self._decompressor.eof:
            data = self._decompressor.unconsumed_tail or self._raw.read(_PIECE_BYTES)
            if not data:
                raise EOFError("the file ends before the compressed data does")
            pieces.append(self._decompressor.decompress(data, _PIECE_BYTES))
            length += len(pieces[-1])
        whole = b"".join(pieces)
        self._ready = whole[size:]
        return whole[:size]
