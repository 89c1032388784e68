"""Training data from CSV, read twice: for the targets, then for the features."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.holdout import Labels, TrainTestSplit, split
from ladle.export.data.tables.places import NAMELESS, Places, find_places
from ladle.export.data.tables.standardization import precision_note, standardization
from ladle.export.data.texts import are_texts, is_number, text_dataset
from ladle.export.errors import DataError
from ladle.export.multi_io.data import ONLY, MultiDataset

_MOST_CHARACTERS = 1 << 24
"""Of a value, a text; as many bytes as a text of a folder may have."""
# What is beyond would become infinite.
_LARGEST = float(np.finfo(np.float32).max)


def read_csv(
    path: Path, *, regression: bool = False, group_by: str | None = None, by_column: bool = False
) -> Dataset | MultiDataset:
    """Read a table with a header: numbers, and a column `label` or `target`.

    Labels may be texts. Spaces around labels and around the names of columns do not count. A column
    `sample_weight` says how much a row counts. Columns are brought to mean 0 and deviation 1, as
    measured on the training rows and recorded as normalisation. A table with one column beside
    these holds texts, where that is called `text` or no value in it is a number. Where one of
    several columns holds no number, or with `by_column`, each column is an input of its own, which
    the model gets as it is; such a table is kept in memory.

    Args:
        path: The file, UTF-8.
        regression: Whether the targets are numbers to predict.
        group_by: The column that says to which group a row belongs; all rows of a group are
            trained on, or all are held out. The model does not see it.
        by_column: Whether each column is an input of its own.

    Raises:
        DataError: There is no such column, or a value is no finite number.
    """
    lines = _lines(path)
    header = next(lines, (0, []))[1]
    if not header:
        raise DataError(f"{path}: expected a header and rows, got 0 lines")
    table = find_places(str(path), header, group_by)
    header, target = table.header, table.target
    labels, groups, texts = Labels(), Labels(), list[str]()
    numbers, weights = array("f"), array("f")
    no_numbers, filled = set(table.features), set[int]()
    n_rows = 0
    for line, row in lines:
        n_rows += 1
        if len(row) != len(header):
            raise DataError(f"{path}: line {line}: expected {len(header)} values, got {len(row)}")
        if regression:
            numbers.append(_number(path, line, header[target], row[target]))
        else:
            labels.add(_not_empty(path, line, "label", row[target]))
        if table.weight is not None:
            weights.append(_number(path, line, header[table.weight], row[table.weight]))
        if table.group is not None:
            groups.add(_not_empty(path, line, header[table.group], row[table.group]))
        if len(table.features) == 1:
            texts.append(row[table.features[0]])
        no_numbers = {column for column in no_numbers if not is_number(row[column])}
        filled |= {column for column in no_numbers if row[column].strip()}
    no_numbers &= filled  # an empty column holds no texts
    if not n_rows:
        raise DataError(f"{path}: expected a header and rows, got 1 lines")
    names, targets = ((), np.frombuffer(numbers, np.float32)) if regression else labels.result()
    numbered = groups.result()[1] if table.group is not None else None
    held_out, notes = split(str(path), targets, numbered, regression=regression)
    if any(not header[column] for column in table.features):
        notes += (NAMELESS,)
    weighted = None if table.weight is None else np.frombuffer(weights, np.float32)
    if by_column or (no_numbers and len(table.features) > 1):
        inputs = _columns(path, table, n_rows, no_numbers)
        by_part = {"x_train": ~held_out, "x_test": held_out}
        return MultiDataset(
            name=path.name,
            **{p: {k: v[rows] for k, v in inputs.items()} for p, rows in by_part.items()},
            y_train={ONLY: targets[~held_out]},
            y_test={ONLY: targets[held_out]},
            labels={ONLY: names} if names else {},
            are_columns=True,
            sample_weight=None if weighted is None else weighted[~held_out],
            notes=notes,
        )
    if texts and are_texts(header[table.features[0]], texts):
        return text_dataset(
            path.name,
            texts,
            held_out,
            targets,
            names,
            column=header[table.features[0]],
            weights=weighted,
            groups=numbered,
            notes=notes,
        )
    parts = TrainTestSplit(held_out, (len(table.features),), np.float32, notes)
    for (line, row), _ in zip(_rows_again(path, n_rows), held_out, strict=True):
        parts.add([_number(path, line, header[column], row[column]) for column in table.features])
    columns = tuple(header[column] for column in table.features)
    measured = standardization(parts.train)
    dataset = parts.dataset(path.name, targets, names, measured, weighted, columns, numbered)
    note = precision_note(measured, columns)
    return dataset if note is None else replace(dataset, notes=(*dataset.notes, note))


def _columns(path: Path, table: Places, n_rows: int, texts: set[int]) -> dict[str, NDArray[Any]]:
    """Return each column of features by its name, in memory: float32, or texts as objects."""
    columns: dict[int, Any] = {n: [] if n in texts else array("f") for n in table.features}
    for line, row in _rows_again(path, n_rows):
        for column, values in columns.items():
            if column in texts:
                values.append(row[column])  # blanks included, as who asks will send them
            else:
                values.append(_number(path, line, table.header[column], row[column]))
    return {
        table.header[n]: np.array(values, object if n in texts else np.float32)
        for n, values in columns.items()
    }


def _not_empty(path: Path, line: int, what: str, text: str) -> str:
    value = text.strip()
    if not value:
        raise DataError(f"{path}: line {line}: expected a {what}, got an empty one")
    return value


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank with the number of its line, the header with 1."""
    if csv.field_size_limit() < _MOST_CHARACTERS:  # Python's own limit is 128 KiB
        csv.field_size_limit(_MOST_CHARACTERS)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            reason = f"expected text in UTF-8: {error}"
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


def _number(path: Path, line: int, column: str, text: str) -> float:
    number = float(text) if is_number(text) else math.nan
    if not abs(number) <= _LARGEST:
        raise DataError(
            f'{path}: line {line}: column "{column}": expected a finite number, got {text[:80]!r}'
        )
    return number
