"""Examples in two parts, to train on and held out, in files that are mapped into memory.

So data larger than memory train: the system reads what is asked for, and forgets it again. The
files have no name, and are gone with the process.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.conversion import mapped
from ladle.export.data.dataset import Dataset
from ladle.export.data.groups import check_groups, grouped_holdout
from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

HELD_OUT_EVERY = 5


class TrainTestSplit:
    """Two arrays for examples whose number is known, filled one by one in the order of the data."""

    def __init__(
        self,
        held_out: NDArray[np.bool_],
        shape: tuple[int, ...],
        dtype: Any,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Make room for an example of `shape` for each of `held_out`, which says its part.

        Raises:
            DataError: The disk has no room for them.
        """
        self._held_out = held_out
        self._notes = notes
        n_test = int(held_out.sum())
        self.train = mapped((len(held_out) - n_test, *shape), dtype)
        self.test = mapped((n_test, *shape), dtype)
        self._filled = [0, 0]

    def add(self, example: Any) -> None:
        """Put the next example into its part."""
        part = int(self._held_out[sum(self._filled)])
        (self.train, self.test)[part][self._filled[part]] = example
        self._filled[part] += 1

    def dataset(
        self,
        name: str,
        targets: NDArray[Any],
        labels: tuple[str, ...],
        normalization: Normalization,
        weights: NDArray[np.float32] | None = None,
        columns: tuple[str, ...] = (),
        groups: NDArray[np.int64] | None = None,
    ) -> Dataset:
        """Return the data set of these examples, whose `targets` are in their order.

        Raises:
            DataError: As for Dataset.
        """
        train, test = ~self._held_out, self._held_out
        return Dataset(
            name=name,
            x_train=self.train,
            y_train=targets[train],
            x_test=self.test,
            y_test=targets[test],
            labels=labels,
            normalization=normalization,
            sample_weight=None if weights is None else weights[train],
            columns=columns,
            groups=None if groups is None else groups[train],
            notes=self._notes,
        )


def holdout(n_examples: int) -> NDArray[np.bool_]:
    """Return which of so many examples are held out, in the order of the data."""
    held_out = np.zeros(n_examples, bool)
    held_out[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY] = True
    return held_out


def stratified_holdout(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which examples are held out: of each class every fifth, in the order of the data."""
    held_out = np.zeros(len(targets), bool)
    # A stable sort keeps the order within each class.
    in_order = np.argsort(targets, kind="stable")
    ends = np.flatnonzero(np.diff(targets[in_order])) + 1
    for of_class in np.split(in_order, ends):
        held_out[of_class[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True
    return held_out


def split(
    name: str, targets: NDArray[Any], groups: NDArray[np.int64] | None, *, regression: bool
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return which examples are held out, and what is strange about that.

    That is every fifth example, of each class unless it is a regression; or, with `groups`, whole
    groups that hold about a fifth of them.

    Raises:
        DataError: There is nothing to train on, or nothing to measure with.
    """
    notes: tuple[str, ...] = ()
    if groups is not None:
        share = 1 / HELD_OUT_EVERY
        classes = np.zeros(len(targets), np.int64) if regression else targets
        held_out = grouped_holdout(groups, classes, share)
        notes = check_groups(name, groups, held_out, share)
    else:
        held_out = holdout(len(targets)) if regression else stratified_holdout(targets)
    check_split(name, held_out)
    return held_out, notes


def check_split(name: str, held_out: NDArray[np.bool_]) -> None:
    """See that there is something to train on and something to measure with.

    Raises:
        DataError: There is not.
    """
    if held_out.all() or not held_out.any():
        raise DataError(
            f"{name}: {len(held_out)} examples leave nothing to train on or to measure with"
            f" (every {HELD_OUT_EVERY}th of a class is held out)"
        )


class Labels:
    """Labels as they come, kept as numbers: a text for each example would not fit in memory."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._seen = array("q")

    def add(self, text: str) -> None:
        """Take the label of the next example."""
        self._seen.append(self._numbers.setdefault(text, len(self._numbers)))

    def __len__(self) -> int:
        return len(self._seen)

    def result(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the different labels, and for each example the index of its own.

        Labels that are numbers are in the order of their size, and others of the alphabet.
        """
        texts = list(self._numbers)
        all_numbers = all(text.isascii() and text.isdigit() for text in texts)
        labels = tuple(sorted(texts, key=int) if all_numbers else sorted(texts))
        places = {label: place for place, label in enumerate(labels)}
        as_seen = np.array([places[text] for text in texts], np.int64)
        return labels, as_seen[np.frombuffer(self._seen, np.int64)]
