"""Predictions as lines of JSON: `part-00000.jsonl`."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np

from ladle.batch.rows import Answered, Column
from ladle.batch.writers.names import ROW, plain
from ladle.batch.writers.writer import OpenFile


class JsonlWriter:
    """Writes each row as an object: `{"row": 0, "probabilities": [0.1, 0.9]}`.

    Bytes that are no UTF-8 become `{"b64": "..."}`, as in TensorFlow Serving's REST API. Numbers
    that JSON doesn't have become "NaN", "Infinity" and "-Infinity", as in protobuf's JSON.
    """

    def __init__(self, open_file: OpenFile) -> None:
        self._file = open_file(".jsonl")

    def write(self, answered: Answered) -> None:
        """Write some rows; see `Writer`."""
        columns = {ROW: answered.numbers.tolist()}
        for name, column in [*answered.kept.items(), *answered.outputs.items()]:
            columns[name] = _values(column)
        names = tuple(columns)
        lines = [
            json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
            for row in zip(*columns.values(), strict=True)
        ]
        # Characters that UTF-8 doesn't have, such as half an emoji, become JSON's escapes.
        self._file.write("\n".join(lines).encode(errors="backslashreplace") + b"\n")

    def close(self) -> None:
        """Do nothing, because `write` keeps nothing."""


def _values(column: Column) -> list[Any]:
    values: list[Any]
    if isinstance(column, np.ndarray):
        column = plain(column)
        values = column.tolist()
        if column.dtype.kind in "iub" or (column.dtype.kind == "f" and np.isfinite(column).all()):
            return values
    else:
        values = column.to_pylist()
    return [as_json(value) for value in values]


def as_json(value: Any) -> Any:
    """Return a value that JSON has; see `JsonlWriter`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # dates, decimals, complex numbers
