"""Rows of numpy's files, `.npy` and `.npz`: arrays of shape `[rows, ...]`."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.batch.errors import BatchError, one_line
from ladle.batch.readers.chunks import chunk_rows
from ladle.batch.rows import Rows

ARRAY = "array"
"""The only column of .npy files, whose array has no name."""

# What zipfile raises for an archive that is damaged or encrypted.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError)


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class NpyReader:
    """Reads arrays in chunks; see `Reader`."""

    is_text = False

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [(path, _headers(path)) for path in paths]
        self.columns = tuple(self._files[0][1])
        for path, headers in self._files:
            if tuple(headers) != self.columns:
                raise BatchError(
                    f"{path}: expected the arrays {', '.join(self.columns)}, as in "
                    f"{self._files[0][0]}, got {', '.join(headers)}"
                )
        self.total_rows: int | None = sum(_rows(headers) for _, headers in self._files)

    def read(self, start: int, wanted: Sequence[str]) -> Iterator[Rows]:
        """Yield rows; see `Reader`."""
        first = 0
        total = self.total_rows or 1
        for path, headers in self._files:
            rows = _rows(headers)
            if start < first + rows:
                for piece in _read(path, headers, max(start - first, 0), wanted, first):
                    yield Rows(
                        start=int(piece[0][0]),
                        stop=int(piece[0][-1]) + 1,
                        numbers=piece[0],
                        columns=piece[1],
                        share=(int(piece[0][-1]) + 1) / total,
                    )
            first += rows


def _read(
    path: Path, headers: dict[str, _Header], skipped: int, wanted: Sequence[str], first: int
) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
    rows = _rows(headers)
    at_a_time = chunk_rows(sum(headers[name].row_bytes for name in wanted))
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open(path, name)) for name in wanted}
        for name, file in files.items():
            _read_header(file, path)
            with _damage_as_error(path):
                file.seek(skipped * headers[name].row_bytes, 1)
        for begin in range(skipped, rows, at_a_time):
            count = min(at_a_time, rows - begin)
            numbers = np.arange(first + begin, first + begin + count)
            yield (
                numbers,
                {name: _piece(f, headers[name], count, path) for name, f in files.items()},
            )


def _piece(file: IO[bytes], header: _Header, count: int, path: Path) -> NDArray[Any]:
    expected = count * header.row_bytes
    with _damage_as_error(path):
        data = file.read(expected)
    if len(data) != expected:
        raise BatchError(f"{path}: the file ends in the middle of an array")
    # frombuffer takes no empty buffers.
    array = np.frombuffer(data, header.dtype) if data else np.empty(0, header.dtype)
    return array.reshape(count, *header.shape[1:])


def _headers(path: Path) -> dict[str, _Header]:
    names = _names(path)
    headers = {}
    for name in names:
        with _open(path, name) as file:
            headers[name] = _read_header(file, path)
    if not headers:
        raise BatchError(f"{path}: it holds no arrays")
    counts = {name: header.shape[0] for name, header in headers.items()}
    if len(set(counts.values())) > 1:
        raise BatchError(f"{path}: expected as many rows in each array, got {counts}")
    return headers


def _names(path: Path) -> list[str]:
    if not zipfile.is_zipfile(path):
        return [ARRAY]
    with _damage_as_error(path), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _open(path: Path, name: str) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    with (
        _damage_as_error(path),
        zipfile.ZipFile(path) as archive,
    ):  # a member that is open keeps the file
        return archive.open(f"{name}.npy")


def row_count(file: IO[bytes], name: object) -> int:
    """Return how many rows an open file has, by its headers; `name` is for messages.

    Raises:
        BatchError: It is no file of numpy's, or is damaged.
    """
    with _damage_as_error(name):
        is_archive = zipfile.is_zipfile(file)
        file.seek(0)
        if not is_archive:
            return _read_header(file, name).shape[0]
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as array:
                        return _read_header(array, name).shape[0]
    raise BatchError(f"{name}: it holds no arrays")


def _read_header(file: IO[bytes], path: object) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(file)
    except (ValueError, TokenError, *_DAMAGE) as error:
        raise BatchError(f"{path}: it is no array of numpy's: {one_line(error)}") from None
    if dtype.hasobject:
        raise BatchError(
            f"{path}: it holds Python objects, which are not loaded; save text as S or U"
        )
    if any(size < 0 for size in shape):
        raise BatchError(f"{path}: expected sizes of 0 or more, got {list(shape)}")
    if not shape:
        raise BatchError(f"{path}: expected an array with rows, got a single number")
    if is_fortran and len(shape) > 1:
        raise BatchError(
            f"{path}: its array lies column by column; save np.ascontiguousarray of it"
        )
    return _Header(dtype, shape)


@contextmanager
def _damage_as_error(path: object) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise BatchError(f"{path}: it can't be read: {one_line(error)}") from None


def _rows(headers: dict[str, _Header]) -> int:
    return next(iter(headers.values())).shape[0]
