"""The examples of a model with several inputs or outputs, by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.checks import ROWS_AT_A_TIME, check_finite, check_weights
from ladle.export.data.conversion import (
    as_texts,
    classes_of_texts,
    number_labels,
    targets_of_rows,
)
from ladle.export.data.dataset import row_bytes
from ladle.export.errors import DataError

Arrays = Mapping[str, NDArray[Any]]
Task = Literal["classes", "labels", "numbers"]
"""A class, labels (an example may have more than one), or numbers."""

PARTS = ("x_train", "y_train", "x_test", "y_test")
ONLY = ""
"""The name of the only output, where data give it none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MultiDataset:
    """Arrays for each input and for each output, in two parts: to train on, and held out.

    A model takes them as they are: what normalises or looks up is inside it. Inputs are numbers or
    texts, [examples, ...]. Targets are classes, integers [examples] from 0; or 0 or 1 for each
    label, [examples, labels]; or numbers, float32 [examples] or [examples, values].

    Raises:
        DataError: Arrays do not go together; the message says which.
    """

    name: str
    """What messages and the model card call the data."""
    x_train: Arrays
    y_train: Arrays
    """By the name of the output; `ONLY` for the only one."""
    x_test: Arrays
    y_test: Arrays
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each output that has classes or labels, their names in order."""
    are_columns: bool = False
    """Whether the inputs are the columns of a table."""
    sample_weight: NDArray[np.float32] | None = None
    """How much each training example counts, [examples]; None for all alike."""
    notes: tuple[str, ...] = ()
    """What reading the data has changed or found strange, each a sentence for their owner."""

    def __post_init__(self) -> None:
        """Check every array against the others."""
        for x_part, y_part in (PARTS[:2], PARTS[2:]):
            inputs, targets = getattr(self, x_part), getattr(self, y_part)
            if not inputs or not targets:
                raise DataError(
                    f"{self.name}: {x_part}, {y_part}: expected at least one array each"
                )
            first = next(iter(inputs))
            n_examples = len(inputs[first])
            for part, arrays in ((x_part, inputs), (y_part, targets)):
                for name, array in arrays.items():
                    what = f"{self.name}: {_path(part, name)}"
                    if array.ndim < 1 or len(array) != n_examples or not n_examples:
                        raise DataError(
                            f"{what}: expected as many examples as {_path(x_part, first)}, at least"
                            f" one ({n_examples}), got {list(array.shape)}"
                        )
                    _check_values(what, array)
        for part in ("x", "y"):
            train, test = getattr(self, f"{part}_train"), getattr(self, f"{part}_test")
            if train.keys() != test.keys():
                raise DataError(
                    f"{self.name}: {part}_test: expected {', '.join(train)} as in {part}_train,"
                    f" got {', '.join(test)}"
                )
            for name, array in train.items():
                if test[name].shape[1:] != array.shape[1:]:
                    raise DataError(
                        f"{self.name}: {_path(f'{part}_test', name)}: expected examples of"
                        f" {list(array.shape[1:])}, got {list(test[name].shape[1:])}"
                    )
        if self.sample_weight is not None:
            check_weights(f"{self.name}: sample_weight", self.sample_weight, self.n_train)

    @classmethod
    def from_arrays(
        cls, name: str, parts: Mapping[str, Arrays], *, are_columns: bool = False
    ) -> MultiDataset:
        """Make a data set of arrays alone; what each output's task is, its targets say.

        Floats are numbers to predict, and integers or texts are classes. Rows of 0s and 1s are
        labels; where each row has one 1, they are classes.

        Args:
            name: What messages and the model card call the data.
            parts: x_train, y_train, x_test and y_test, each arrays by name.
            are_columns: Whether the inputs are the columns of a table.

        Raises:
            DataError: As for the class, or classes leave a gap.
        """
        y_train, y_test, labels, notes = {}, {}, {}, tuple[str, ...]()
        for output, train in parts["y_train"].items():
            if output not in parts["y_test"]:
                raise DataError(f"{name}: {_path('y_test', output)}: expected targets, got none")
            pair, names, found = _targets(f"{name}: {output}", train, parts["y_test"][output])
            y_train[output], y_test[output] = pair
            notes += found
            if names:
                labels[output] = names
        return cls(
            name=name,
            x_train={key: as_texts(array) for key, array in parts["x_train"].items()},
            y_train=y_train,
            x_test={key: as_texts(array) for key, array in parts["x_test"].items()},
            y_test={**y_test, **{k: v for k, v in parts["y_test"].items() if k not in y_test}},
            labels=labels,
            are_columns=are_columns,
            notes=notes,
        )

    @property
    def n_train(self) -> int:
        """How many examples there are to train on."""
        return len(next(iter(self.x_train.values())))

    @property
    def n_test(self) -> int:
        """How many examples are held out."""
        return len(next(iter(self.x_test.values())))

    def task(self, output: str) -> Task:
        """Return what the targets of an output are."""
        if output not in self.labels:
            return "numbers"
        return "labels" if self.y_train[output].ndim == 2 else "classes"

    @property
    def what_it_is(self) -> str:
        """What makes these data more than examples with one target each, for messages."""
        texts = [name for name, array in self.x_train.items() if array.dtype == object]
        if not (self.are_columns and texts):
            return "has several inputs or outputs"
        first = self.x_train[texts[0]][0]
        return f'has texts beside numbers, column "{texts[0]}" with {first!r:.60}'

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all arrays with their names, types and shapes, as `sha256:<hex>`."""
        digest = hashlib.sha256()
        for part in PARTS:
            for name, array in sorted(getattr(self, part).items()):
                digest.update(f"{part}/{name} {array.dtype.str} {array.shape}\n".encode())
                for start in range(0, len(array), ROWS_AT_A_TIME):
                    rows = array[start : start + ROWS_AT_A_TIME]
                    digest.update(row_bytes(rows.reshape(-1)))
        return f"sha256:{digest.hexdigest()}"


def _path(part: str, name: str) -> str:
    return f"{part}/{name}" if name else part


def _check_values(what: str, array: NDArray[Any]) -> None:
    if array.dtype == object:
        for value in array.reshape(-1):
            if not isinstance(value, str | bytes):
                raise DataError(f"{what}: expected texts or numbers, got {type(value).__name__}")
    elif array.dtype.kind == "f":
        check_finite(what, array)
    elif array.dtype.kind not in "iub":
        raise DataError(f"{what}: expected texts or numbers, got {array.dtype}")


def _targets(
    what: str, train: NDArray[Any], test: NDArray[Any]
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[str, ...], tuple[str, ...]]:
    if train.ndim == 2 and train.shape[1] == 1 and test.shape[1:] == (1,):
        train, test = train[:, 0], test[:, 0]
    if train.dtype.kind in "USO":
        return (*classes_of_texts(what, train, test), ())
    if train.dtype.kind == "f":
        return (train.astype(np.float32), test.astype(np.float32)), (), ()
    if train.ndim == 2:
        return targets_of_rows(what, train, test)
    labels = number_labels(what, train.astype(np.int64))
    if len(test) and not 0 <= int(test.min()) <= int(test.max()) < len(labels):
        raise DataError(
            f"{what}: y_test: expected classes 0 to {len(labels) - 1}, got {test.min()} to"
            f" {test.max()}"
        )
    return (train.astype(np.int64), test.astype(np.int64)), labels, ()
