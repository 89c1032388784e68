"""The models that `ladle export` can train, each a module of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ladle.export.training.recipes import bag_of_words, lenet, mlp, mlp_plain

__all__ = ["RECIPES", "Recipe"]


class Recipe(Protocol):
    """What a recipe's module offers; it imports Keras only when it builds."""

    SUMMARY: str
    """Its layers in one line, for `--help`."""
    EPOCHS: int
    """How long to train it on data that are not small."""
    CUSTOM_LOOP: bool
    """Whether it is trained by `ladle.export.training.custom_loop`, not by Keras's fit."""
    TAKES: str
    """numbers, such as images, or texts."""

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> Any:
        """Return a new keras.Model from prepared examples [-1, *image_shape] to logits [-1, n].

        Raises:
            DataError: Examples of that shape are too small for it.
        """


RECIPES: Mapping[str, Recipe] = {
    "mlp": mlp,
    "mlp-plain": mlp_plain,
    "lenet": lenet,
    "bag-of-words": bag_of_words,
}
