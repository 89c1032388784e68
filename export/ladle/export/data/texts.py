"""Texts as training data. They are kept in memory, where images and tables are mapped files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import AS_IT_IS, Dataset
from ladle.export.errors import DataError
from ladle.protos.files.regular_file import open_regular

COLUMN = "text"
"""The name of a table's column that always holds texts."""
_MAX_TEXT_BYTES = 1 << 24


def are_texts(column: str, values: Sequence[str]) -> bool:
    """Return whether the values of a table's only column are texts, and not numbers.

    They are where the column's name says so, or where no value is a number and some are not empty.
    """
    if column == COLUMN:
        return True
    return any(map(str.strip, values)) and not any(map(is_number, values))


def text_dataset(
    name: str,
    texts: Sequence[str],
    held_out: NDArray[np.bool_],
    targets: NDArray[Any],
    labels: tuple[str, ...],
    *,
    column: str = COLUMN,
    weights: NDArray[np.float32] | None = None,
    groups: NDArray[np.int64] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Return the data set of these texts; `held_out` says which part each is in.

    Raises:
        DataError: As for Dataset.
    """
    examples = np.empty(len(texts), object)
    examples[:] = texts
    train = ~held_out
    return Dataset(
        name=name,
        x_train=examples[train],
        y_train=targets[train],
        x_test=examples[held_out],
        y_test=targets[held_out],
        labels=labels,
        normalization=AS_IT_IS,
        sample_weight=None if weights is None else weights[train],
        columns=(column,),
        groups=None if groups is None else groups[train],
        notes=notes,
    )


def read_text(file: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        DataError: It can't be read, is no such text, or is larger than 16 MB.
    """
    try:
        with open_regular(file) as opened:
            content = opened.read(_MAX_TEXT_BYTES + 1)
        if len(content) > _MAX_TEXT_BYTES:
            raise DataError(f"{file}: expected at most {_MAX_TEXT_BYTES} bytes of text, got more")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected text in UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error


def is_number(text: str) -> bool:
    """Return whether a text is a number, as files have them: `1_000` is one in Python alone."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
