"""Rows of TFRecord files, uncompressed: tf.Examples, whose features are the columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from ladle.batch.errors import BatchError
from ladle.batch.readers.pieces import BadRow, Pieces
from ladle.batch.rows import Rows
from ladle.protos import records
from ladle.protos.tensorflow_pb import Example, Feature

RECORD = "record"
"""The column with the Example itself, serialized, for models that take those."""

_FRAME_BYTES = 16
"""What a record takes beside its data."""


class TFRecordReader:
    """Reads record by record, and checks each; see `Reader`.

    The features of the first record are the columns. A record without one that is wanted fails.
    """

    is_text = False
    total_rows = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._total_bytes = max(sum(path.stat().st_size for path in paths), 1)
        first = next((data for path in paths for data in _records(path)), None)
        try:
            features = sorted(Example.FromString(first).features.feature) if first else []
        except DecodeError:
            features = []  # other messages than Examples can still be sent as they are
        self.columns = (RECORD, *(name for name in features if name != RECORD))

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        pieces = Pieces(start, wanted)
        done = 0
        for path in self._paths:
            for data in _records(path):
                done += len(data) + _FRAME_BYTES
                if not pieces.is_wanted:
                    pieces.skip()
                    continue
                try:
                    pieces.add(_row(data, wanted), len(data))
                except BadRow as error:
                    pieces.fail(str(error))
                yield from pieces.full(done / self._total_bytes)
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
    """Return a feature's values as an array, or the only one as it is."""
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


def _records(path: Path) -> Iterator[bytes]:
    try:
        yield from records.read_records(path)
    except records.RecordError as error:
        raise BatchError(str(error)) from None
