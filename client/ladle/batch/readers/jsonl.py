"""Rows of JSON lines: in each an object with a value for each column, or a value alone."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.pieces import Pieces, Sample
from ladle.batch.readers.streams import open_text
from ladle.batch.rows import Rows

VALUE = "value"
"""The column of lines that are no objects."""
# A line is held in memory, and so are its values.
MAX_LINE_BYTES = 256 << 20
_MOST_DIGITS = 300
"""A float of so many digits is finite."""


class JsonlReader:
    """Reads line by line; `{"b64": "..."}` stands for bytes; empty lines are no rows; see `Reader`.

    The first lines show the columns. A row fails where a wanted column is missing.
    """

    is_text = True
    total_rows = None

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._total_bytes = max(sum(path.stat().st_size for path in paths), 1)
        self.columns = _columns(paths)

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        pieces = Pieces(start, wanted)
        bytes_before = 0
        for path in self._paths:
            with open_text(path) as stream:
                for line in _lines(stream.file, path):
                    if line.isspace():
                        continue
                    if not pieces.is_wanted:
                        pieces.skip()
                        continue
                    try:
                        row = _parse(line)
                        pieces.add([row[name] for name in wanted], len(line))
                    except KeyError as error:
                        pieces.fail(f'it has no "{error.args[0]}"')
                    except (ValueError, RecursionError) as error:
                        pieces.fail(f"expected a line of JSON: {one_line(error)}")
                    yield from pieces.full((bytes_before + stream.done_bytes) / self._total_bytes)
                bytes_before += stream.done_bytes
        yield from pieces.rest()


def _columns(paths: Sequence[Path]) -> tuple[str, ...]:
    wrong = None
    sample = Sample()
    for path in paths:
        with open_text(path) as stream:
            for line in _lines(stream.file, path):
                if sample.is_full:
                    return sample.names
                if line.isspace():
                    continue
                try:
                    sample.add(_parse(line), len(line))
                except (ValueError, RecursionError) as error:
                    wrong = wrong or f"{path}: its first line is no JSON: {one_line(error)}"
    if wrong is not None and not sample.names:
        raise BatchError(wrong)
    return sample.names


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) >= MAX_LINE_BYTES:
            raise BatchError(f"{path}: a line is longer than {MAX_LINE_BYTES} bytes")
        yield line


def _parse(line: bytes) -> dict[str, Any]:
    # Bytes would be taken for UTF-16 where they look like it.
    value = json.loads(line.decode(), object_hook=_bytes, parse_float=_float_of(line))
    return value if isinstance(value, dict) else {VALUE: value}


def _float_of(line: bytes) -> Callable[[str], float] | None:
    """Return what reads the floats of a line: Python's own, where none can be too large."""
    return _float if b"e" in line or b"E" in line or len(line) > _MOST_DIGITS else None


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"expected a number that a float can hold, got {text:.40}")
    return number


def _bytes(value: dict[str, Any]) -> Any:
    if value.keys() == {"b64"}:
        if not isinstance(value["b64"], str):
            raise ValueError(f'"b64": expected text, got {value["b64"]!r:.50}')
        return base64.b64decode(value["b64"], validate=True)
    return value
