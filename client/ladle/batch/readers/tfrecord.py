"""Rows of TFRecord files, plain, GZIP or ZLIB: tf.Examples, whose features are the columns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ladle.batch.errors import BatchError
from ladle.batch.readers.pieces import BadRow, Pieces, Sample
from ladle.batch.readers.streams import GZIP_MAGIC, Compression, Stream, open_stream
from ladle.batch.rows import Rows
from ladle.protos.files import records
from ladle.protos.tensorflow_pb import Example, Feature

RECORD = "record"
"""The column with the serialized Example itself, for models that take serialized Examples."""

# A record is held in memory; the size of a compressed file says nothing about its records.
MAX_RECORD_BYTES = 256 << 20


class TFRecordReader:
    """Reads record by record, and checks the checksums; see `Reader`.

    The features of the first records are the columns. A record fails without one that is wanted.
    """

    is_text = False
    total_rows = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._total_bytes = max(sum(path.stat().st_size for path in paths), 1)
        self.columns = (RECORD, *(name for name in _features(paths) if name != RECORD))

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        pieces = Pieces(start, wanted)
        bytes_before = 0
        for path in self._paths:
            with _open(path) as stream:
                for data in _records(stream, path):
                    if not pieces.is_wanted:
                        pieces.skip()
                        continue
                    try:
                        pieces.add(_row(data, wanted), len(data))
                    except BadRow as error:
                        pieces.fail(str(error))
                    yield from pieces.full((bytes_before + stream.done_bytes) / self._total_bytes)
                bytes_before += stream.done_bytes
        yield from pieces.rest()


def _row(data: bytes, wanted: Sequence[str]) -> list[Any]:
    if all(name == RECORD for name in wanted):
        return [data] * len(wanted)
    try:
        features = Example.FromString(data).features.feature
    except DecodeError:
        raise BadRow("the record is no tf.Example") from None
    for name in wanted:
        if name != RECORD and name not in features:
            raise BadRow(f'it has no feature "{name}"')
    return [data if name == RECORD else _values(features[name]) for name in wanted]


def _values(feature: Feature) -> Any:
    """Return a feature's values as an array, or a single value without one."""
    match feature.WhichOneof("kind"):
        case "float_list":
            values: Any = np.array(feature.float_list.value, np.float32)
        case "int64_list":
            values = np.array(feature.int64_list.value, np.int64)
        case _:
            strings = list(feature.bytes_list.value)
            values = np.empty(len(strings), object)
            values[:] = strings
    return values[0] if len(values) == 1 else values


def _features(paths: Sequence[Path]) -> list[str]:
    sample = Sample()
    for path in paths:
        with _open(path) as stream:
            for data in _records(stream, path):
                if sample.is_full:
                    return sorted(sample.names)
                # Other messages than Examples can still be sent as they are.
                with suppress(DecodeError):
                    sample.add(Example.FromString(data).features.feature, len(data))
    return sorted(sample.names)


def _open(path: Path) -> AbstractContextManager[Stream]:
    with path.open("rb") as file:
        begin = file.read(16)
    compression: Compression = None
    # A length may begin as compressed data does, but its checksum is right.
    if begin and not records.is_header(begin):
        if begin.startswith(GZIP_MAGIC):
            compression = "gzip"
        elif begin[0] & 0x0F == 8 and int.from_bytes(begin[:2], "big") % 31 == 0:
            compression = "zlib"  # RFC 1950: deflate, and a header that 31 divides
    return open_stream(path, compression)


def _records(stream: Stream, path: Path) -> Iterator[bytes]:
    is_plain = stream.file is stream.raw
    size = path.stat().st_size if is_plain else sys.maxsize
    try:
        yield from records.read_stream(stream.file, path, size, MAX_RECORD_BYTES)
    except records.RecordError as error:
        raise BatchError(str(error)) from None
