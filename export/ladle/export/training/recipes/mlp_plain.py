"""The same hidden layer without Dropout: the classifier of TensorFlow's Fashion-MNIST tutorial."""

from __future__ import annotations

from typing import Any

SUMMARY = "mlp without Dropout, 10 epochs: the Fashion-MNIST classifier"
EPOCHS = 10
CUSTOM_LOOP = False
TAKES = "numbers"


def build(image_shape: tuple[int, ...], n_classes: int) -> Any:
    """Return the untrained keras.Model, from examples of any shape to logits."""
    import keras

    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(n_classes),
        ]
    )
