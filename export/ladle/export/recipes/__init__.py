"""The classifiers that `ladle export` can train, each a module of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ladle.export.recipes import mlp

__all__ = ["RECIPES", "Recipe"]


class Recipe(Protocol):
    """What a recipe's module offers; it imports Keras only when it builds."""

    SUMMARY: str
    """Its layers in one line, for `--help`."""

    def build(self, image_shape: tuple[int, ...], n_classes: int) -> Any:
        """Return a new keras.Model from normalised images [-1, *image_shape] to logits [-1, n]."""


RECIPES: Mapping[str, Recipe] = {"mlp": mlp}
