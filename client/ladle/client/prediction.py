"""The results of calls: Prediction, Classification, Regression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


def size_of(array: NDArray[Any]) -> int:
    """Return how many bytes the values of an array take, and text and bytes as well."""
    if array.dtype != object:
        return array.nbytes
    return sum(len(value) for value in array.ravel().tolist() if isinstance(value, bytes | str))


class Scored(NamedTuple):
    """One class and its score."""

    label: str
    """The name of the class; its index as text if the model has no names."""
    score: float
    class_index: int


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Mapping[str, NDArray[Any]]):
    """The outputs of a model by name, a Mapping, and the version that answered.

    `prediction["name"]` is an output, `dict(prediction)` holds all. An output's array is read-only
    if it is a view of the answer's bytes; copy it to write. Predictions compare by identity.
    """

    outputs: Mapping[str, NDArray[Any]]
    """By name; strings are object arrays of `bytes`."""
    model: str
    version: int | None
    """The version that answered; None from an old server that doesn't say."""
    signature: str
    """The signature that ran, also if the server chose it."""
    labels: tuple[str, ...] = ()
    """The names of the classes, in the order of the scores; empty if the model has none."""
    index: int | None = None
    """The position of its inputs in the stream that it is of, from 0."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        try:
            return self.outputs[name]
        except KeyError:
            raise KeyError(
                f'output "{name}": expected one of {", ".join(sorted(self.outputs))}'
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    __eq__ = object.__eq__  # a Mapping's own would compare arrays as truth values
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        outputs = _in_words(self.outputs)
        return f"Prediction({_who(self.model, self.version, self.signature)}: {outputs})"

    def _ipython_key_completions_(self) -> list[str]:
        """Return what IPython and Jupyter complete after `prediction["`."""
        return list(self.outputs)

    def top(self, k: int = 3, *, output: str | None = None) -> list[list[Scored]]:
        """Return for each example its `k` classes of highest score, the highest first.

        `output` names the output with the scores, numbers of shape `[batch, classes]`. Without
        `output` it is the only output of such a shape. Equal scores keep the order of the classes.

        Raises:
            ValueError: `k` is less than 1, no output or more than one has scores, or the one
                named has not.
            KeyError: There is no output of that name.
        """
        if k < 1:
            raise ValueError(f"k: expected 1 or more, got {k}")
        name = self._scores_name() if output is None else output
        scores = self[name]
        if not _are_scores(scores):
            raise ValueError(
                f'output "{name}": expected numbers of shape [batch, classes], '
                f"got {scores.dtype} {list(scores.shape)}"
            )
        # Scores of fewer than 16 bits may have no negation of their own; float64 holds them all.
        ranked = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :k]
        return [
            [Scored(self._label(index, len(row)), float(row[index]), index) for index in best]
            for row, best in zip(scores, ranked.tolist(), strict=True)
        ]

    def _scores_name(self) -> str:
        candidates = [name for name, array in self.outputs.items() if _are_scores(array)]
        if len(candidates) != 1:
            shapes = {name: list(array.shape) for name, array in sorted(self.outputs.items())}
            raise ValueError(
                f"expected one output with numbers of shape [batch, classes], got {shapes}; "
                "name it: top(output=...)"
            )
        return candidates[0]

    def _label(self, index: int, classes: int) -> str:
        # Names for another number of classes are names of something else.
        return self.labels[index] if len(self.labels) == classes else str(index)


@dataclass(frozen=True, repr=False)
class Classification:
    """The classes of each example."""

    classes: tuple[tuple[Scored, ...], ...]
    """The classes of each example, in the model's order. Labels are empty text if the model gives
    none; scores are 0 if it gives none."""
    model: str
    version: int | None
    """The version that answered; None if the server doesn't say."""
    signature: str

    def __repr__(self) -> str:
        who = _who(self.model, self.version, self.signature)
        return f"Classification({who}: the classes of {len(self.classes)} examples)"

    def top(self, k: int = 3) -> list[list[Scored]]:
        """Return for each example its `k` classes of highest score, the highest first.

        Raises:
            ValueError: `k` is less than 1.
        """
        if k < 1:
            raise ValueError(f"k: expected 1 or more, got {k}")
        return [sorted(row, key=lambda scored: -scored.score)[:k] for row in self.classes]


@dataclass(frozen=True, eq=False, repr=False)
class Regression:
    """One number for each example."""

    values: NDArray[np.float32]
    """[batch]"""
    model: str
    version: int | None
    """The version that answered; None if the server doesn't say."""
    signature: str

    def __repr__(self) -> str:
        values = _in_words({"values": self.values})
        return f"Regression({_who(self.model, self.version, self.signature)}: {values})"


def _are_scores(array: NDArray[Any]) -> bool:
    return array.ndim == 2 and np.can_cast(array.dtype, np.float64, "same_kind")


def _who(model: str, version: int | None, signature: str) -> str:
    return f'"{model}"{"" if version is None else f" version {version}"} "{signature}"'


def _in_words(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return names, dtypes and shapes, without values: `class_id int64 [3]`."""
    return ", ".join(
        f"{name} {'string' if array.dtype == object else array.dtype} {list(array.shape)}"
        for name, array in sorted(arrays.items())
    )
