"""The images and labels that a classifier is trained on and measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import DataError
from ladle.protos.model_card import Normalization

Images = NDArray[np.uint8]
Targets = NDArray[np.integer[Any]]

# The layout of keras.datasets, in memory and as the arrays of an .npz file.
ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
BYTE_PIXELS = Normalization(divisor=255.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Labelled images in two parts: to train on, and held out to measure with.

    The arrays are kept as they are given, not copied.

    Raises:
        DataError: An array is not of the form given here; the message says which, what was
            expected and what was found.
    """

    name: str
    """What messages and the model card call it."""
    x_train: Images
    """Raw pixels, [images, height, width] or [images, height, width, channels]."""
    y_train: Targets
    """For each image the index of its class in `labels`, [images]; any integer type."""
    x_test: Images
    """Held-out images, of the same height, width and channels."""
    y_test: Targets
    """The classes of the held-out images, [images]."""
    labels: tuple[str, ...]
    """Class names, in the order of the classifier's outputs; at least two."""
    normalization: Normalization = BYTE_PIXELS
    """What training does to raw pixels, and serving must do too."""

    def __post_init__(self) -> None:
        """Check every array against the others."""
        if len(self.labels) < 2:
            raise DataError(f"{self.name}: expected at least 2 classes, got {len(self.labels)}")
        for part in ("train", "test"):
            images, targets = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _check_images(f"{self.name}: x_{part}", images)
            _check_targets(f"{self.name}: y_{part}", targets, len(images), len(self.labels))
        if self.x_test.shape[1:] != self.image_shape:
            raise DataError(
                f"{self.name}: x_test: expected images of {list(self.image_shape)}"
                f" as in x_train, got {list(self.x_test.shape[1:])}"
            )

    @classmethod
    def from_arrays(
        cls,
        name: str,
        arrays: Mapping[str, NDArray[Any]],
        normalization: Normalization = BYTE_PIXELS,
    ) -> Dataset:
        """Make a data set whose classes are named by their numbers, 0 to n-1.

        Every class has to occur in `y_train`: a gap is far more often a wrong label than a class
        that nothing can be learnt about.

        Args:
            name: What messages and the model card call it.
            arrays: x_train, y_train, x_test and y_test.
            normalization: What training does to raw pixels.

        Raises:
            DataError: As for the class, or the labels in `y_train` leave a gap.
        """
        targets = arrays["y_train"]
        _check_integers(f"{name}: y_train", targets)
        classes = np.unique(targets)
        strange = classes[(classes < 0) | (classes >= len(classes))]
        if len(strange):
            raise DataError(
                f"{name}: y_train: expected labels 0 to {len(classes) - 1},"
                f" as it holds {len(classes)} different ones, got {strange[0]}"
            )
        labels = tuple(str(number) for number in range(len(classes)))
        parts = {part: arrays[part] for part in ARRAY_NAMES}
        return cls(name=name, labels=labels, normalization=normalization, **parts)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and, where there are any, channels."""
        return self.x_train.shape[1:]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the four arrays with their types and shapes, as `sha256:<hex>`."""
        digest = hashlib.sha256()
        for name in ARRAY_NAMES:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return f"sha256:{digest.hexdigest()}"


def _check_images(what: str, images: NDArray[Any]) -> None:
    if images.dtype != np.uint8:
        raise DataError(
            f"{what}: expected raw uint8 pixels (training normalises them), got {images.dtype}"
        )
    if images.ndim not in (3, 4):
        raise DataError(
            f"{what}: expected [images, height, width] or [images, height, width, channels],"
            f" got {list(images.shape)}"
        )
    if 0 in images.shape:
        raise DataError(f"{what}: expected at least one image and pixel, got {list(images.shape)}")


def _check_targets(what: str, targets: NDArray[Any], n_images: int, n_classes: int) -> None:
    _check_integers(what, targets)
    if len(targets) != n_images:
        raise DataError(f"{what}: expected {n_images} labels, one an image, got {len(targets)}")
    for extreme in (targets.min(), targets.max()):
        if not 0 <= extreme < n_classes:
            raise DataError(f"{what}: expected labels 0 to {n_classes - 1}, got {extreme}")


def _check_integers(what: str, targets: NDArray[Any]) -> None:
    if targets.dtype.kind not in "iu":
        raise DataError(f"{what}: expected integer labels, got {targets.dtype}")
    if targets.ndim != 1:
        raise DataError(
            f"{what}: expected one label for each image, shape [images], got {list(targets.shape)}"
        )
