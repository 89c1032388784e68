"""One layer over the words and pairs of words of a text: the classifier to beat."""

from __future__ import annotations

from typing import Any

SUMMARY = "for texts: which of 20,000 words and pairs of words occur, Dense"
EPOCHS = 10
CUSTOM_LOOP = False
TAKES = "texts"

_MOST_WORDS = 20_000


def build(image_shape: tuple[int, ...], n_classes: int) -> Any:
    """Return the untrained keras.Model, from texts to logits; with an empty vocabulary."""
    import keras

    words = keras.layers.TextVectorization(
        max_tokens=_MOST_WORDS, ngrams=2, output_mode="multi_hot", pad_to_max_tokens=True
    )
    return keras.Sequential([keras.Input((), dtype="string"), words, keras.layers.Dense(n_classes)])
