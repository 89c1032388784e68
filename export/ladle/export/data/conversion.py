"""What arrays of anybody's making become, so that a data set takes them: examples and targets.

Pure functions, but for large arrays: those are converted into files that are mapped into memory.
"""

from __future__ import annotations

import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.checks import ROWS_AT_A_TIME, check_indicators, check_integers
from ladle.export.errors import DataError

Targets = NDArray[Any]

_MOST_BYTES = 1 << 28
"""A larger array is converted into a mapped file."""
_EXACT_UP_TO = 1 << 24
"""Each integer up to this is a float32."""
_PIXEL_DIMENSIONS = (3, 4)


def as_examples(
    name: str, x_train: NDArray[Any], x_test: NDArray[Any]
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[str, ...]]:
    """Return examples as a data set takes them, and notes of what was converted.

    Texts of a fixed width become objects. Other floats become float32. Integers from 0 to 255 in
    three or four dimensions become pixels, uint8; other integers and booleans become float32. What
    else there is stays as it is, for the data set to refuse.

    Raises:
        DataError: float32 can't hold a number.
    """
    parts = {"x_train": as_texts(x_train), "x_test": as_texts(x_test)}
    usual = (np.dtype(object), np.dtype(np.uint8), np.dtype(np.float32))
    given = {
        part: a for part, a in parts.items() if a.dtype not in usual and a.dtype.kind in "iufb"
    }
    if not given:
        return (parts["x_train"], parts["x_test"]), ()
    are_pixels = all(map(_may_be_pixels, parts.values()))
    for part, array in given.items():
        parts[part] = _converted(f"{name}: {part}", array, np.uint8 if are_pixels else np.float32)
    types = " and ".join(dict.fromkeys(f"{array.dtype}" for array in given.values()))
    where = " and ".join(given)
    note = f"{where} held {types}, and {'are' if len(given) > 1 else 'is'} taken as float32"
    if are_pixels:
        note = (
            f"{where} held {types} from 0 to 255, taken as pixels, uint8; if the examples are no"
            " images, save them as float32"
        )
    return (parts["x_train"], parts["x_test"]), (note,)


def as_texts(array: NDArray[Any]) -> NDArray[Any]:
    """Return texts of a fixed width, as files have them, as objects; anything else as it is."""
    return array.astype(object) if array.dtype.kind in "US" else array


def as_numbers(targets: Targets) -> Targets:
    """Return numbers as float32; anything else as it is."""
    return targets.astype(np.float32) if targets.dtype.kind in "iufb" else targets


def as_classes(
    name: str, y_train: Targets, y_test: Targets
) -> tuple[tuple[Targets, Targets], tuple[str, ...]]:
    """Return targets as integers, and notes of what was converted.

    Booleans are the classes 0 and 1, and floats without a fraction are classes too.

    Raises:
        DataError: They are something else.
    """
    parts, notes = [], []
    for part, targets in (("y_train", y_train), ("y_test", y_test)):
        is_whole = targets.dtype.kind == "f" and bool(np.all(targets == np.trunc(targets)))
        if targets.dtype.kind == "b" or (is_whole and np.isfinite(targets).all()):
            notes.append(f"{part} holds {targets.dtype}, taken as classes")
            targets = targets.astype(np.int64)
        elif targets.dtype.kind == "f":
            raise DataError(
                f"{name}: {part}: expected integer labels, got {targets.dtype} with fractions; for"
                " a regression choose a loss on numbers, such as --loss mse"
            )
        check_integers(f"{name}: {part}", targets)
        parts.append(targets)
    return (parts[0], parts[1]), tuple(notes)


def _may_be_pixels(array: NDArray[Any]) -> bool:
    if array.dtype.kind not in "iu" or array.ndim not in _PIXEL_DIMENSIONS or not array.size:
        return False
    return bool(array.min() >= 0 and array.max() <= 255)


def _converted(what: str, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return the array in another dtype, made some rows at a time.

    Raises:
        DataError: The dtype can't hold a number.
    """
    n_bytes = array.size * np.dtype(dtype).itemsize
    made = mapped(array.shape, dtype) if n_bytes > _MOST_BYTES else np.empty(array.shape, dtype)
    for start in range(0, len(array) if array.ndim else 0, ROWS_AT_A_TIME):
        rows = array[start : start + ROWS_AT_A_TIME]
        with np.errstate(over="ignore"):  # what becomes infinite is found below
            some = rows.astype(dtype)
        if rows.dtype.kind == "f":
            lost = np.isfinite(rows) & ~np.isfinite(some)
        else:
            lost = (rows > _EXACT_UP_TO) | (rows < -_EXACT_UP_TO)
        if lost.any():
            raise DataError(
                f"{what}: {array.dtype} is taken as float32, which does not hold"
                f" {rows[lost].flat[0]}; scale the numbers, or save them as float32"
            )
        made[start : start + ROWS_AT_A_TIME] = some
    return made


def classes_of_texts(
    name: str, y_train: Targets, y_test: Targets
) -> tuple[tuple[Targets, Targets], tuple[str, ...]]:
    """Return classes and their names, in the order of the alphabet, for targets that are texts.

    Raises:
        DataError: They are something else, one is empty, or one of `y_test` is not in `y_train`.
    """
    parts = []
    for part, targets in (("y_train", y_train), ("y_test", y_test)):
        if targets.ndim != 1 or targets.dtype.kind not in "USO":
            raise DataError(
                f"{name}: {part}: expected one name of a class for each example, got"
                f" {targets.dtype} {list(targets.shape)}"
            )
        texts = [t.decode(errors="replace") if isinstance(t, bytes) else str(t) for t in targets]
        parts.append([text.strip() for text in texts])
        if "" in parts[-1]:
            raise DataError(f"{name}: {part}: expected a label, got an empty one")
    labels = tuple(sorted(set(parts[0])))
    unknown = sorted(set(parts[1]) - set(labels))
    if unknown:
        raise DataError(f"{name}: y_test: class {unknown[0]!r} is not in y_train")
    places = {label: place for place, label in enumerate(labels)}
    classes = [np.array([places[text] for text in part], np.int64) for part in parts]
    return (classes[0], classes[1]), labels


def targets_of_rows(
    name: str, y_train: Targets, y_test: Targets
) -> tuple[tuple[Targets, Targets], tuple[str, ...], tuple[str, ...]]:
    """Return targets, labels and notes for targets that are rows of 0s and 1s.

    Raises:
        DataError: They are something else.
    """
    n_labels = y_train.shape[1]
    parts = []
    for part, targets in (("y_train", y_train), ("y_test", y_test)):
        if targets.dtype.kind == "f" and np.isin(targets, (0, 1)).all():
            targets = targets.astype(np.uint8)
        check_indicators(f"{name}: {part}", targets, len(targets), n_labels)
        parts.append(targets)
    labels = tuple(str(number) for number in range(n_labels))
    if any((targets.astype(np.int64).sum(axis=1) != 1).any() for targets in parts):
        return (parts[0], parts[1]), labels, ()
    note = "each row of y_train and y_test has one 1: they are taken as classes, one an example"
    classes = (parts[0].argmax(axis=1), parts[1].argmax(axis=1))
    return classes, number_labels(name, classes[0]), (note,)


def number_labels(name: str, targets: Targets) -> tuple[str, ...]:
    """Return the names of classes that are numbers from 0.

    Raises:
        DataError: They leave a gap.
    """
    classes = np.unique(targets)
    strange = classes[(classes < 0) | (classes >= len(classes))]
    if len(strange):
        raise DataError(
            f"{name}: y_train: expected labels 0 to {len(classes) - 1},"
            f" as it holds {len(classes)} different ones, got {strange[0]}"
        )
    return tuple(str(number) for number in range(len(classes)))


def mapped(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return a new array of zeros whose bytes are in a temporary file.

    Raises:
        DataError: The disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="ladle-examples-") as file:
            # A hole in the file that the disk cannot fill later would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise DataError(
            f"{tempfile.gettempdir()}: no room for {size} bytes of examples:"
            f" {error.strerror or error}"
        ) from error
