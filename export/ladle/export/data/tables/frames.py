"""Training data from a DataFrame of pandas or polars, or a table of Arrow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.data.holdout import Labels, split
from ladle.export.data.tables.places import NAMELESS, Places, find_places
from ladle.export.data.tables.standardization import precision_note, standardization
from ladle.export.data.texts import are_texts, text_dataset
from ladle.export.errors import DataError
from ladle.export.multi_io.data import ONLY, MultiDataset
from ladle.protos.files.frames import columns_of, has_missing

_LARGEST = float(np.finfo(np.float32).max)


def read_frame(
    frame: Any, *, regression: bool = False, group_by: str | None = None, by_column: bool = False
) -> Dataset | MultiDataset:
    """Return what `read_csv` makes of a file with the same columns; its index does not count.

    Categories are what they stand for: texts or numbers. Booleans are 0 and 1. All is kept in
    memory.

    Args:
        frame: The table, with a column `label` or `target`.
        regression: Whether the targets are numbers to predict.
        group_by: The column that says to which group a row belongs.
        by_column: Whether each column is an input of its own.

    Raises:
        DataError: There is no such column, a value is missing or no finite number, or a column
            holds something else than numbers or texts, such as dates.
    """
    name = type(frame).__name__
    try:
        columns = columns_of(frame)
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None
    places = find_places(name, list(columns), group_by)
    arrays = [
        _column(f'{name}: column "{column}"', values)
        for column, values in zip(places.header, columns.values(), strict=True)
    ]
    if not len(arrays[0]):
        raise DataError(f"{name}: expected rows, got none")
    labels: tuple[str, ...] = ()
    targets: NDArray[Any]
    if regression:
        targets = _numbers(name, places, arrays, places.target)
    else:
        labels, targets = _classes(name, places, arrays, places.target)
    weights = None if places.weight is None else _numbers(name, places, arrays, places.weight)
    groups = None if places.group is None else _classes(name, places, arrays, places.group)[1]
    held_out, notes = split(name, targets, groups, regression=regression)
    if any(not places.header[n] for n in places.features):
        notes += (NAMELESS,)
    features = {places.header[n]: arrays[n] for n in places.features}
    first = next(iter(features.values()))
    texts = [column for column, array in features.items() if array.dtype == object]
    if by_column or (texts and len(features) > 1):
        parts = {"x_train": ~held_out, "x_test": held_out}
        return MultiDataset(
            name=name,
            **{part: {k: v[rows] for k, v in features.items()} for part, rows in parts.items()},
            y_train={ONLY: targets[~held_out]},
            y_test={ONLY: targets[held_out]},
            labels={ONLY: labels} if labels else {},
            are_columns=True,
            sample_weight=None if weights is None else weights[~held_out],
            notes=notes,
        )
    if texts and are_texts(texts[0], first.tolist()):
        return text_dataset(
            name,
            first.tolist(),
            held_out,
            targets,
            labels,
            column=texts[0],
            weights=weights,
            groups=groups,
            notes=notes,
        )
    numbers = np.stack([_numbers(name, places, arrays, n) for n in places.features], axis=1)
    train = ~held_out
    measured = standardization(numbers[train])
    note = precision_note(measured, tuple(features))
    return Dataset(
        name=name,
        x_train=numbers[train],
        y_train=targets[train],
        x_test=numbers[held_out],
        y_test=targets[held_out],
        labels=labels,
        normalization=measured,
        sample_weight=None if weights is None else weights[train],
        groups=None if groups is None else groups[train],
        columns=tuple(features),
        notes=notes if note is None else (*notes, note),
    )


def _column(what: str, values: Any) -> NDArray[Any]:
    """Return a column as numbers, or as texts in an array of objects, [rows].

    Raises:
        DataError: It holds something else.
    """
    if has_missing(values):
        raise DataError(f"{what}: expected a value in each row; fill what is missing")
    array = np.asarray(values)
    if array.dtype.kind in "SUT":
        array = array.astype(object)
    if array.dtype == object:
        listed = array.ravel().tolist()
        if all(isinstance(value, bool | int | float) for value in listed):
            array = np.asarray(listed)
    if array.ndim != 1 or array.dtype.kind not in "biufO":
        raise DataError(
            f"{what}: expected numbers or texts, got {array.dtype} {list(array.shape)}; write dates"
            " and times as numbers"
        )
    if array.dtype == object:
        odd = next((v for v in array.tolist() if not isinstance(v, str)), None)
        if odd is not None or None in array.tolist():
            raise DataError(f"{what}: expected numbers or texts, got {type(odd).__name__}")
    return array


def _numbers(
    name: str, places: Places, arrays: list[NDArray[Any]], place: int
) -> NDArray[np.float32]:
    array, what = arrays[place], f'{name}: column "{places.header[place]}"'
    if array.dtype == object:
        raise DataError(f"{what}: expected numbers, got the text {array[0]!r:.80}")
    odd = np.flatnonzero(~(np.abs(array.astype(np.float64)) <= _LARGEST))
    if len(odd):
        raise DataError(f"{what}: row {odd[0]}: expected a finite number, got {array[odd[0]]}")
    return array.astype(np.float32)


def _classes(
    name: str, places: Places, arrays: list[NDArray[Any]], place: int
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    labels = Labels()
    for row, value in enumerate(arrays[place].tolist()):
        whole = isinstance(value, float) and value.is_integer()
        text = str(int(value) if whole else value).strip()
        if not text or text == "nan":
            raise DataError(
                f'{name}: column "{places.header[place]}": row {row}: expected a label, got'
                f" {'an empty one' if not text else 'none'}"
            )
        labels.add(text)
    return labels.result()
