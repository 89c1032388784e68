"""What a load test sends: made from a model's signature, or taken from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.client import Signature, TensorSpec

Request: TypeAlias = "Mapping[str, NDArray[Any]] | NDArray[Any]"

OPEN_SIZE = 32
"""The size of a dimension that the signature leaves open, beyond the first."""


def made(signature: Signature, rows: int) -> dict[str, NDArray[Any]]:
    """Return inputs that fit a signature, with `rows` rows where their first dimension is open.

    Floats are random from 0 to 1, uint8 from 0 to 255, other integers 0 and 1, text is "text".

    Raises:
        ValueError: An input is of a dtype or rank for which nothing can be made.
    """
    random = np.random.default_rng(0)
    return {
        name: _made(name, spec, rows, random)
        for name, spec in signature.inputs.items()
        if name not in signature.optional
    }


def read(path: Path, rows: int) -> list[Request]:
    """Return requests of `rows` rows each from a file; the last may have fewer.

    A `.npy` file holds the rows of the only input, a `.npz` file those of each input by name.

    Raises:
        ValueError: The file holds no rows, or its arrays differ in their rows.
        OSError: It can't be read.
    """
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        arrays: dict[str, NDArray[Any]] = {"": loaded}
    else:
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"{path}: expected as many rows in each array, 1 or more")
    total = lengths.pop()
    parts: list[Request] = []
    for start in range(0, total, rows):
        part = {name: array[start : start + rows] for name, array in arrays.items()}
        parts.append(part[""] if isinstance(loaded, np.ndarray) else part)
    return parts


def repeated(parts: list[Request]) -> Iterator[Request]:
    """Return the requests again and again."""
    return cycle(parts)


def in_words(request: Request) -> str:
    """Return names, dtypes and shapes: `images uint8 [1, 8, 8]`."""
    arrays = {"the only input": request} if isinstance(request, np.ndarray) else request
    return ", ".join(
        f"{name} {'string' if array.dtype == object else array.dtype} {list(array.shape)}"
        for name, array in sorted(arrays.items())
    )


def rows_of(request: Request) -> int:
    """Return the rows of a request: the first dimension of its first input, 1 for a scalar."""
    array = request if isinstance(request, np.ndarray) else next(iter(request.values()))
    return len(array) if array.ndim else 1


def _made(name: str, spec: TensorSpec, rows: int, random: np.random.Generator) -> NDArray[Any]:
    if spec.shape is None:
        raise ValueError(f'input "{name}": its rank is open; give a file with --input')
    shape = [
        size if size != -1 else OPEN_SIZE if index else rows
        for index, size in enumerate(spec.shape)
    ]
    dtype = spec.dtype
    if dtype.kind == "O":
        strings = np.empty(shape, object)
        strings[...] = b"text"
        return strings
    if dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    return random.random(shape, np.float32).astype(dtype)
