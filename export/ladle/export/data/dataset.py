"""The examples that a model is trained on and measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.preparation import Preparation
from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

Examples = NDArray[Any]
Targets = NDArray[Any]

# The layout of keras.datasets, in memory and as the arrays of an .npz file.
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
WEIGHTS_NAME = "sample_weight"
BYTE_PIXELS = Normalization(divisor=255.0)
AS_IT_IS = Normalization()
_ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Examples with their targets, in two parts: to train on, and held out to measure with.

    Examples are images, raw uint8 pixels [examples, height, width] or [examples, height, width,
    channels], or features, finite float32 [examples, ...]: of a table, a sequence [examples, steps,
    features], or images of numbers that are no bytes. The arrays are kept as they are
    given, not copied; they may be memory maps.

    Raises:
        DataError: An array is not of the form given here; the message says which, what was
            expected and what was found.
    """

    name: str
    """What messages and the model card call it."""
    x_train: Examples
    y_train: Targets
    """For each example the index of its class in `labels`, any integer type; or, where there are
    no labels, the number to predict, finite; [examples]."""
    x_test: Examples
    """Held-out examples, of the same type and shape."""
    y_test: Targets
    """The targets of the held-out examples, [examples]."""
    labels: tuple[str, ...]
    """Class names, in the order of the classifier's outputs, at least two; or none, for a
    regression."""
    normalization: Normalization = BYTE_PIXELS
    """What training does to raw data, and serving must do too."""
    resize: tuple[int, int] | None = None
    """Height and width that images are brought to before normalisation; None leaves them be."""
    sample_weight: NDArray[np.float32] | None = None
    """How much each training example counts, not negative, [examples]; None for all alike."""
    columns: tuple[str, ...] = ()
    """The names of the features, in their order; empty where they have none."""
    notes: tuple[str, ...] = ()
    """What reading the data has changed or found strange, each a sentence for their owner."""

    def __post_init__(self) -> None:
        """Check every array against the others."""
        if len(self.labels) == 1:
            raise DataError(f"{self.name}: expected at least 2 classes, got 1")
        for part in ("train", "test"):
            examples, targets = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_examples(f"{self.name}: x_{part}", examples)
            if self.is_regression:
                _check_numbers(f"{self.name}: y_{part}", targets, len(examples))
            else:
                _check_targets(f"{self.name}: y_{part}", targets, len(examples), len(self.labels))
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
        if self.resize is not None and self.x_train.dtype != np.uint8:
            raise DataError(f"{self.name}: resize: expected images, got features")
        if self.columns and self.x_train.shape[1:] != (len(self.columns),):
            raise DataError(
                f"{self.name}: columns: expected a name for each of {list(self.image_shape)}"
                f" features, got {len(self.columns)}"
            )
        if self.sample_weight is not None:
            _check_weights(f"{self.name}: {WEIGHTS_NAME}", self.sample_weight, len(self.x_train))

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
        about. In a regression they are any numbers.

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
        labels: tuple[str, ...] = ()
        if regression:
            parts |= {part: _as_numbers(parts[part]) for part in ("y_train", "y_test")}
        else:
            _check_integers(f"{name}: y_train", parts["y_train"])
            labels = _numbered_labels(name, parts["y_train"])
        if normalization is None:
            pixels = arrays["x_train"].dtype == np.uint8
            normalization = BYTE_PIXELS if pixels else AS_IT_IS
        return cls(
            name=name,
            labels=labels,
            normalization=normalization,
            sample_weight=arrays.get(WEIGHTS_NAME),
            **parts,
        )

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers, not classes."""
        return not self.labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and, where there are any, channels; or how many features."""
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
            raw_dtype="uint8" if self.x_train.dtype == np.uint8 else "float32",
            normalization=self.normalization,
            resize=self.resize,
            columns=self.columns,
        )

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
            for start in range(0, len(array), _ROWS_AT_A_TIME):
                rows = np.ascontiguousarray(array[start : start + _ROWS_AT_A_TIME])
                digest.update(rows.reshape(-1).view(np.uint8).data)
        return f"sha256:{digest.hexdigest()}"


def _numbered_labels(name: str, targets: Targets) -> tuple[str, ...]:
    classes = np.unique(targets)
    strange = classes[(classes < 0) | (classes >= len(classes))]
    if len(strange):
        raise DataError(
            f"{name}: y_train: expected labels 0 to {len(classes) - 1},"
            f" as it holds {len(classes)} different ones, got {strange[0]}"
        )
    return tuple(str(number) for number in range(len(classes)))


def _as_numbers(targets: Targets) -> Targets:
    return targets.astype(np.float32) if targets.dtype.kind in "iuf" else targets


def _check_examples(what: str, examples: Examples) -> None:
    if examples.dtype == np.uint8:
        if examples.ndim not in (3, 4):
            raise DataError(
                f"{what}: expected [images, height, width] or [images, height, width, channels],"
                f" got {list(examples.shape)}"
            )
    elif examples.dtype != np.float32:
        raise DataError(
            f"{what}: expected raw uint8 pixels (training normalises them) or float32 features,"
            f" got {examples.dtype}"
        )
    elif examples.ndim < 2:
        raise DataError(
            f"{what}: expected raw uint8 pixels (training normalises them) or float32 features"
            f" [examples, features, ...], got float32 {list(examples.shape)}"
        )
    if 0 in examples.shape:
        one = "image and pixel" if examples.dtype == np.uint8 else "example and feature"
        raise DataError(f"{what}: expected at least one {one}, got {list(examples.shape)}")
    if examples.dtype == np.float32:
        _check_finite(what, examples)


def _check_finite(what: str, array: NDArray[Any]) -> None:
    # Some rows at a time: the array may be mapped, and larger than memory.
    for start in range(0, len(array), _ROWS_AT_A_TIME):
        strange = np.argwhere(~np.isfinite(array[start : start + _ROWS_AT_A_TIME]))
        if len(strange):
            row, *rest = (int(index) for index in strange[0])
            where = (start + row, *rest)
            raise DataError(f"{what}: expected finite numbers, got {array[where]} at {list(where)}")


def _check_numbers(what: str, targets: Targets, n_examples: int) -> None:
    if targets.dtype.kind != "f":
        raise DataError(f"{what}: expected numbers, got {targets.dtype}")
    if targets.shape != (n_examples,):
        raise DataError(f"{what}: expected {[n_examples]}, got {list(targets.shape)}")
    _check_finite(what, targets)


def _check_weights(what: str, weights: NDArray[Any], n_examples: int) -> None:
    _check_numbers(what, weights, n_examples)
    if weights.min() < 0:
        raise DataError(f"{what}: expected weights from 0, got {weights.min():g}")
    if not weights.any():
        raise DataError(f"{what}: expected a weight above 0, or nothing is learnt; all are 0")


def _check_targets(what: str, targets: Targets, n_examples: int, n_classes: int) -> None:
    _check_integers(what, targets)
    if len(targets) != n_examples:
        raise DataError(f"{what}: expected {n_examples} labels, one an image, got {len(targets)}")
    for extreme in (targets.min(), targets.max()):
        if not 0 <= extreme < n_classes:
            raise DataError(f"{what}: expected labels 0 to {n_classes - 1}, got {extreme}")


def _check_integers(what: str, targets: Targets) -> None:
    if targets.dtype.kind not in "iu":
        raise DataError(f"{what}: expected integer labels, got {targets.dtype}")
    if targets.ndim != 1:
        raise DataError(
            f"{what}: expected one label for each image, shape [images], got {list(targets.shape)}"
        )
