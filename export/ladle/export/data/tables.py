"""Training data from CSV, read twice: for the targets, then for the features."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.holdout import (
    Labels,
    TrainTestSplit,
    check_split,
    holdout,
    stratified_holdout,
)
from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

_LABEL_COLUMNS = ("label", "target")
_WEIGHT_COLUMN = "sample_weight"
_ROWS_AT_A_TIME = 4096
# What is beyond would become infinite.
_LARGEST = float(np.finfo(np.float32).max)


def read_csv(path: Path, *, regression: bool = False) -> Dataset:
    """Read a table with a header: numbers, and a column `label` or `target`.

    Labels may be texts. Spaces around labels and around the names of columns do not count. A column
    `sample_weight` says how much a row counts. Columns are brought to mean 0 and deviation 1, as
    measured on the training rows and recorded as normalisation.

    Raises:
        DataError: There is no such column, or a value is no finite number.
    """
    lines = _lines(path)
    _, header = next(lines, (0, []))
    header = [name.strip() for name in header]
    target = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            f"{path}: expected each column once, got {', '.join(repeated)[:200]} several times"
        )
    if target is None and header:
        raise DataError(f"{path}: expected a column label or target, got {', '.join(header)[:200]}")
    weight = header.index(_WEIGHT_COLUMN) if _WEIGHT_COLUMN in header else None
    columns = [n for n in range(len(header)) if n not in (target, weight)]
    labels, numbers, weights = Labels(), array("f"), array("f")
    n_rows = 0
    for line, row in lines:
        n_rows += 1
        if len(row) != len(header):
            raise DataError(f"{path}: line {line}: expected {len(header)} values, got {len(row)}")
        assert target is not None
        if regression:
            numbers.append(_number(path, line, header[target], row[target]))
        else:
            labels.add(_label(path, line, row[target]))
        if weight is not None:
            weights.append(_number(path, line, header[weight], row[weight]))
    if not n_rows:
        raise DataError(f"{path}: expected a header and rows, got {int(bool(header))} lines")
    if not columns:
        raise DataError(f"{path}: expected columns of numbers beside {header[target or 0]}")
    names: tuple[str, ...] = ()
    if regression:
        targets: NDArray[Any] = np.frombuffer(numbers, np.float32)
        held_out = holdout(n_rows)
    else:
        names, targets = labels.result()
        held_out = stratified_holdout(targets)
    check_split(str(path), held_out)
    parts = TrainTestSplit(held_out, (len(columns),), np.float32)
    for (line, row), _ in zip(_rows_again(path, n_rows), held_out, strict=True):
        parts.add([_number(path, line, header[column], row[column]) for column in columns])
    return parts.dataset(
        path.name,
        targets,
        names,
        _standardization(parts.train),
        None if weight is None else np.frombuffer(weights, np.float32),
        tuple(header[column] for column in columns),
    )


def _label(path: Path, line: int, text: str) -> str:
    label = text.strip()
    if not label:
        raise DataError(f"{path}: line {line}: expected a label, got an empty one")
    return label


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank with the number of its line, the header with 1."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _rows_again(path: Path, n_rows: int) -> Iterator[tuple[int, list[str]]]:
    rows = _lines(path)
    width = len(next(rows, (0, []))[1])
    n_read = 0
    for n_read, (line, row) in enumerate(rows, start=1):  # asked for below
        if n_read > n_rows or len(row) != width:
            break
        yield line, row
    else:
        if n_read == n_rows:
            return
    raise DataError(f"{path}: was changed while it was read")


def _standardization(features: NDArray[np.float32]) -> Normalization:
    """Return what brings each column to mean 0 and deviation 1, measured some rows at a time."""
    n_rows, n_columns = features.shape
    starts = range(0, n_rows, _ROWS_AT_A_TIME)
    total = np.zeros(n_columns)
    for start in starts:
        total += features[start : start + _ROWS_AT_A_TIME].sum(axis=0, dtype=np.float64)
    mean = total / n_rows
    squares = np.zeros(n_columns)
    for start in starts:
        squares += ((features[start : start + _ROWS_AT_A_TIME] - mean) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / n_rows)
    return Normalization(
        offset=tuple(map(float, mean)),
        divisor=tuple(map(float, np.where(deviation > 0, deviation, 1))),
    )


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise DataError(
            f'{path}: line {line}: column "{column}": expected a finite number, got {text[:80]!r}'
        )
    return number
