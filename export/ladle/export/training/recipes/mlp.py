"""One hidden layer: the classifier of TensorFlow's quickstart."""

from __future__ import annotations

from typing import Any

SUMMARY = "Flatten, Dense 128 relu, Dropout 0.2, Dense: the quickstart classifier"
EPOCHS = 5
CUSTOM_LOOP = False
TAKES = "numbers"


def build(image_shape: tuple[int, ...], n_classes: int) -> Any:
    """Return the untrained keras.Model, from images of any shape to logits."""
    import keras

    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(n_classes),
        ]
    )
