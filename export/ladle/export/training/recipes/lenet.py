"""A small convolutional network after LeNet-5, trained by a loop of our own."""

from __future__ import annotations

from typing import Any

from ladle.export.errors import DataError

SUMMARY = (
    "two convolutions 3x3 with max-pooling, Dense 120, 84: LeNet, 60,074 parameters at 28x28x1,"
    " images from 10x10"
)
EPOCHS = 10
CUSTOM_LOOP = True
TAKES = "numbers"

# Smaller ones leave nothing after two convolutions and two poolings.
_MIN_SIZE = 10


def build(image_shape: tuple[int, ...], n_classes: int) -> Any:
    """Return the untrained keras.Model, from images to logits.

    Raises:
        DataError: The examples are no images, or smaller than 10x10.
    """
    import keras

    if len(image_shape) < 2:
        raise DataError(f"recipe lenet: expected images, got examples of {list(image_shape)}")
    height, width, *channels = image_shape
    if min(height, width) < _MIN_SIZE:
        raise DataError(
            f"recipe lenet: expected images of at least {_MIN_SIZE}x{_MIN_SIZE},"
            f" got {height}x{width}; resize them, as with --resize 28x28"
        )
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Reshape((height, width, *(channels or [1]))),
            keras.layers.Conv2D(6, 3),
            keras.layers.MaxPooling2D(2),
            keras.layers.ReLU(),
            keras.layers.Conv2D(16, 3),
            keras.layers.MaxPooling2D(2),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(120, activation="relu"),
            keras.layers.Dense(84, activation="relu"),
            keras.layers.Dense(n_classes),
        ]
    )
