"""Rows of JSON lines: in each an object with a value for each column, or a value alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.pieces import Pieces
from ladle.batch.rows import Rows

VALUE = "value"
"""The column of lines that are no objects."""
# A line is held in memory, and so is what it says.
MAX_LINE_BYTES = 256 << 20


class JsonlReader:
    """Reads line by line; `{"b64": "..."}` stands for bytes; empty lines are no rows; see `Reader`.

    The first row tells the columns. A row with a column less fails if that is wanted.
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
        done = 0
        for path in self._paths:
            for line in _lines(path):
                done += len(line)
                if line.isspace():
                    continue
                if not pieces.is_wanted:
                    pieces.skip()
                    continue
                try:
                    told = _parse(line)
                    pieces.add([told[name] for name in wanted], len(line))
                except KeyError as error:
                    pieces.fail(f'it has no "{error.args[0]}"')
                except (ValueError, RecursionError) as error:
                    pieces.fail(f"expected a line of JSON: {one_line(error)}")
                yield from pieces.full(done / self._total_bytes)
        yield from pieces.rest()


def _columns(paths: Sequence[Path]) -> tuple[str, ...]:
    for path in paths:
        for line in _lines(path):
            if not line.isspace():
                try:
                    return tuple(_parse(line))
                except (ValueError, RecursionError) as error:
                    raise BatchError(
                        f"{path}: its first line is no JSON: {one_line(error)}"
                    ) from None
    return ()


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES):
            if len(line) >= MAX_LINE_BYTES:
                raise BatchError(f"{path}: a line is longer than {MAX_LINE_BYTES} bytes")
            yield line


def _parse(line: bytes) -> dict[str, Any]:
    told = json.loads(line, object_hook=_bytes)
    return told if isinstance(told, dict) else {VALUE: told}


def _bytes(value: dict[str, Any]) -> Any:
    if value.keys() == {"b64"}:
        if not isinstance(value["b64"], str):
            raise ValueError(f'"b64": expected text, got {value["b64"]!r:.50}')
        return base64.b64decode(value["b64"], validate=True)
    return value
