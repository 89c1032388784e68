"""The examples that a model is trained on and measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.checks import (
    ROWS_AT_A_TIME,
    check_classes,
    check_examples,
    check_indicators,
    check_targets,
    check_weights,
)
from ladle.export.data.conversion import (
    as_classes,
    as_examples,
    as_numbers,
    classes_of_texts,
    number_labels,
    targets_of_rows,
)
from ladle.export.data.preparation import Preparation
from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

Examples = NDArray[Any]
Targets = NDArray[Any]

# The layout of keras.datasets, in memory and as the arrays of an .npz file.
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
WEIGHTS_NAME = "sample_weight"
_RAW_DTYPES: Mapping[str, Literal["uint8", "float32", "string"]] = {
    "u": "uint8",
    "f": "float32",
    "O": "string",
}
BYTE_PIXELS = Normalization(divisor=255.0)
AS_IT_IS = Normalization()


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their targets, in two parts: to train on, and held out to measure with.

    Examples are images, raw uint8 pixels [examples, height, width] or [examples, height, width,
    channels], or features, finite float32 [examples, ...]: of a table, a sequence [examples, steps,
    features], or images of numbers that are no bytes; or texts, str or UTF-8 bytes in an array of
    objects [examples]. The arrays are kept as they are given, not copied; they may be memory maps.

    Raises:
        DataError: An array is not of the form given here; the message says which, what was
            expected and what was found.
    """

    name: str
    """What messages and the model card call it."""
    x_train: Examples
    y_train: Targets
    """For each example the index of its class in `labels`, any integer type, [examples]; or, where
    an example may have several labels or none, 0 or 1 for each label, [examples, labels]; or, where
    there are no labels, the number to predict, finite, [examples], or several, [examples, n]."""
    x_test: Examples
    """Held-out examples, of the same type and shape."""
    y_test: Targets
    """The targets of the held-out examples, of the same form."""
    labels: tuple[str, ...]
    """Names of the classes or labels, in the order of the classifier's outputs, at least two; or
    none, for a regression."""
    normalization: Normalization = BYTE_PIXELS
    """What training does to raw data, and serving must do too."""
    resize: tuple[int, int] | None = None
    """Height and width that images are brought to before normalisation; None leaves them be."""
    sample_weight: NDArray[np.float32] | None = None
    """How much each training example counts, not negative, [examples]; None for all alike."""
    groups: NDArray[np.int64] | None = None
    """For each training example the number of its group, [examples]: examples of one group, such as
    photos of one thing, are trained on together or kept aside together. None without groups."""
    columns: tuple[str, ...] = ()
    """The names of the features, in their order; empty where they have none."""
    notes: tuple[str, ...] = ()
    """What reading the data has changed or found strange, each a sentence for their owner."""
    is_made_up: bool = False
    """Whether the examples only show that a model runs: nothing is learnt of them or measured."""

    def __post_init__(self) -> None:
        """Check every array against the others."""
        if len(self.labels) == 1:
            raise DataError(f"{self.name}: expected at least 2 classes, got 1")
        for part in ("train", "test"):
            examples, targets = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            check_examples(f"{self.name}: x_{part}", examples)
            if self.is_regression:
                check_targets(f"{self.name}: y_{part}", targets, len(examples))
            elif self.is_multi_label:
                check_indicators(f"{self.name}: y_{part}", targets, len(examples), len(self.labels))
            else:
                check_classes(f"{self.name}: y_{part}", targets, len(examples), len(self.labels))
        if self.x_test.shape[1:] != self.x_train.shape[1:]:
            raise DataError(
                f"{self.name}: x_test: expected {self.what} of {list(self.x_train.shape[1:])}"
                f" as in x_train, got {list(self.x_test.shape[1:])}"
            )
        if self.x_test.dtype != self.x_train.dtype:
            raise DataError(
                f"{self.name}: x_test: expected {self.x_train.dtype} as in x_train,"
                f" got {self.x_test.dtype}"
            )
        if self.y_test.shape[1:] != self.y_train.shape[1:]:
            raise DataError(
                f"{self.name}: y_test: expected {list(self.y_train.shape[1:])} numbers an example"
                f" as in y_train, got {list(self.y_test.shape[1:])}"
            )
        if self.resize is not None and self.x_train.dtype != np.uint8:
            raise DataError(f"{self.name}: resize: expected images, got {self.what}")
        shape = (1,) if self.preparation.are_texts else self.x_train.shape[1:]
        if self.columns and shape != (len(self.columns),):
            raise DataError(
                f"{self.name}: columns: expected a name for each of {list(self.image_shape)}"
                f" features, got {len(self.columns)}"
            )
        if self.sample_weight is not None:
            check_weights(f"{self.name}: {WEIGHTS_NAME}", self.sample_weight, len(self.x_train))

    @classmethod
    def from_arrays(
        cls,
        name: str,
        arrays: Mapping[str, NDArray[Any]],
        normalization: Normalization | None = None,
        *,
        regression: bool = False,
    ) -> Dataset:
        """Make a data set of arrays alone.

        Targets are classes, named by their numbers, 0 to n-1; every class has to occur in
        `y_train`: a gap is far more often a wrong label than a class that nothing can be learnt
        about. Texts are the names of classes; blanks around them don't count.
        Rows of 0s and 1s are labels that an example has or lacks; where each row has one 1, they
        are classes. In a regression targets are any numbers, one or several an example.
        Numbers of other types than a data set holds are converted where their values fit, and a
        note says so; see `as_examples` and `as_classes`.

        Args:
            name: What messages and the model card call it.
            arrays: x_train, y_train, x_test and y_test; sample_weight where there is one.
            normalization: What training does to raw data; None divides pixels by 255, and leaves
                features as they are.
            regression: Whether the targets are numbers to predict.

        Raises:
            DataError: As for the class, or the labels in `y_train` leave a gap.
        """
        parts: dict[str, Any] = {part: arrays[part] for part in ARRAY_NAMES}
        for part in ("y_train", "y_test"):
            if parts[part].ndim == 2 and parts[part].shape[1] == 1:  # as keras.datasets has some
                parts[part] = parts[part][:, 0]
        examples, notes = as_examples(name, parts["x_train"], parts["x_test"])
        parts |= dict(zip(("x_train", "x_test"), examples, strict=True))
        targets: tuple[Targets, Targets] = (parts["y_train"], parts["y_test"])
        labels: tuple[str, ...] = ()
        found: tuple[str, ...] = ()
        if regression:
            targets = (as_numbers(targets[0]), as_numbers(targets[1]))
        elif targets[0].ndim == 2:
            targets, labels, found = targets_of_rows(name, *targets)
        elif targets[0].dtype.kind in "USO":
            targets, labels = classes_of_texts(name, *targets)
        else:
            targets, found = as_classes(name, *targets)
            labels = number_labels(name, targets[0])
        parts |= dict(zip(("y_train", "y_test"), targets, strict=True))
        if normalization is None:
            pixels = parts["x_train"].dtype == np.uint8
            normalization = BYTE_PIXELS if pixels else AS_IT_IS
        weights = arrays.get(WEIGHTS_NAME)
        return cls(
            name=name,
            labels=labels,
            normalization=normalization,
            sample_weight=None if weights is None else as_numbers(weights),
            notes=(*notes, *found),
            **parts,
        )

    @property
    def n_train(self) -> int:
        """How many examples there are to train on."""
        return len(self.x_train)

    @property
    def n_test(self) -> int:
        """How many examples are held out."""
        return len(self.x_test)

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers, not classes."""
        return not self.labels

    @property
    def n_values(self) -> int | None:
        """How many numbers a regression predicts of an example; None where targets are [examples].

        Of classes and labels None too.
        """
        return self.y_train.shape[1] if self.is_regression and self.y_train.ndim == 2 else None

    @property
    def n_outputs(self) -> int:
        """How many numbers a model gives for an example."""
        return len(self.labels) or self.n_values or 1

    @property
    def is_multi_label(self) -> bool:
        """Whether an example may have several of the labels, or none."""
        return bool(self.labels) and self.y_train.ndim == 2

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and maybe channels; or how many features; nothing for a text."""
        return self.x_train.shape[1:]

    @property
    def what(self) -> str:
        """What the examples are, for messages."""
        return self.preparation.input_name

    @property
    def preparation(self) -> Preparation:
        """What has to be done to an example before a model sees it."""
        return Preparation(
            raw_shape=self.x_train.shape[1:],
            raw_dtype=_RAW_DTYPES[self.x_train.dtype.kind],
            normalization=self.normalization,
            resize=self.resize,
            columns=self.columns,
        )

    def named(self, labels: tuple[str, ...]) -> Dataset:
        """Return the same data with names for classes or labels that are called by their numbers.

        Raises:
            DataError: There are more or fewer, or they have names.
        """
        numbers = tuple(str(number) for number in range(len(self.labels)))
        if self.is_regression or len(labels) != len(self.labels):
            raise DataError(
                f"{self.name}: labels: expected {len(self.labels)} names, got {len(labels)}"
            )
        if self.labels not in (numbers, labels):
            raise DataError(
                f"{self.name}: labels: the data name their classes, such as {self.labels[0]!r}"
            )
        return replace(self, labels=labels)

    def resized(self, height: int, width: int) -> Dataset:
        """Return the same data, whose images are resized in training and in serving."""
        return replace(self, resize=(height, width))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the four arrays with their types and shapes, as `sha256:<hex>`."""
        digest = hashlib.sha256()
        for name in ARRAY_NAMES:
            array = getattr(self, name)
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            # Some rows at a time: not all of the array has to fit in memory, in another order.
            for start in range(0, len(array), ROWS_AT_A_TIME):
                digest.update(row_bytes(array[start : start + ROWS_AT_A_TIME]))
        return f"sha256:{digest.hexdigest()}"


def row_bytes(rows: NDArray[Any]) -> bytes:
    """Return the bytes of some rows, for a hash; of texts each with its length."""
    if rows.dtype != object:
        return np.ascontiguousarray(rows).tobytes()
    encoded = (text.encode() if isinstance(text, str) else text for text in rows)
    return b"".join(len(text).to_bytes(8, "little") + text for text in encoded)
