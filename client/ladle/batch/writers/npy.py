"""Predictions as numpy's files, one for each output: `part-00000.probabilities.npy`.

`part-00000.row.npy` holds the numbers of the rows.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ladle.batch.errors import BatchError
from ladle.batch.rows import Answered, Column
from ladle.batch.writers.names import ROW, plain
from ladle.batch.writers.writer import OpenFile


class NpyWriter:
    """Writes a file for each column; the number of rows goes into the headers at the end."""

    def __init__(self, open_file: OpenFile) -> None:
        self._open_file = open_file
        self._arrays: dict[str, _Array] = {}

    def write(self, answered: Answered) -> None:
        """Write some rows; see `Writer`."""
        columns: Mapping[str, Column] = {
            ROW: answered.numbers,
            **answered.kept,
            **answered.outputs,
        }
        for name, column in columns.items():
            array = column if isinstance(column, np.ndarray) else column.to_numpy(False)
            array = _fixed_width(name, plain(array))
            if name not in self._arrays:
                file = self._open_file(f".{re.sub('[^A-Za-z0-9._-]', '_', name)}.npy")
                self._arrays[name] = _Array(name, file, array)
            self._arrays[name].write(array)

    def close(self) -> None:
        """Write the headers."""
        for array in self._arrays.values():
            array.finish()


class _Array:
    def __init__(self, name: str, file: BinaryIO, first: NDArray[Any]) -> None:
        self._name = name
        self._file = file
        self._dtype = first.dtype
        self._inner = first.shape[1:]
        self._rows = 0
        file.write(self._header(0))

    def write(self, array: NDArray[Any]) -> None:
        if (array.dtype, array.shape[1:]) != (self._dtype, self._inner):
            raise BatchError(
                f'"{self._name}": a .npy file holds rows of one shape; expected {self._dtype} '
                f"{list(self._inner)} as before, got {array.dtype} {list(array.shape[1:])}"
            )
        self._rows += len(array)
        self._file.write(np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        self._file.seek(0)
        self._file.write(self._header(self._rows))

    def _header(self, rows: int) -> bytes:
        header = io.BytesIO()
        # numpy pads the header, so that a longer number of rows fits in its place.
        np.lib.format.write_array_header_2_0(
            header,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (rows, *self._inner),
            },
        )
        return header.getvalue()


def _fixed_width(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "O":
        raise BatchError(
            f'"{name}": text and bytes have no place in .npy files, which are read without pickle; '
            "leave it out with --keep or --outputs, or write another format"
        )
    return array
