"""What happens to raw data before a model sees it: the same in training and in every signature."""

from __future__ import annotations

from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ladle.protos.model_card import Normalization

# What TensorFlow decodes an image to.
DECODABLE_CHANNELS = (1, 3, 4)
_MOST_INPUTS = 1000


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From raw data to a model's input: resized where asked for, then normalised."""

    raw_shape: tuple[int, ...]
    """Of one example: [height, width], [height, width, channels], [features], or [] for a text."""
    raw_dtype: Literal["uint8", "float32", "string"]
    """uint8 for pixels, float32 for features, string for texts."""
    normalization: Normalization
    resize: tuple[int, int] | None = None
    """Height and width that every image is brought to, bilinearly; None leaves them be."""
    columns: tuple[str, ...] = ()
    """The names of a table's features, in their order; empty where they have none."""

    @property
    def are_images(self) -> bool:
        """Whether the raw data are pixels."""
        return self.raw_dtype == "uint8"

    @property
    def are_texts(self) -> bool:
        """Whether the raw data are texts, which a model takes as they are."""
        return self.raw_dtype == "string"

    @property
    def input_name(self) -> str:
        """What signatures call the data."""
        return {"uint8": "images", "float32": "features", "string": "text"}[self.raw_dtype]

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns where each can be an input of a signature of its own: all are identifiers."""
        can_be = not self.are_texts and all(
            name.isidentifier() and not iskeyword(name) for name in self.columns
        )
        return self.columns if can_be and len(self.columns) <= _MOST_INPUTS else ()

    @property
    def channels(self) -> int:
        """Of each image; 1 where the shape has none."""
        return self.raw_shape[2] if len(self.raw_shape) == 3 else 1

    @property
    def decodable(self) -> bool:
        """Whether an encoded PNG or JPEG can stand for an example."""
        return self.are_images and self.channels in DECODABLE_CHANNELS

    @property
    def model_shape(self) -> tuple[int, ...]:
        """The shape of one example as the model takes it."""
        return self.raw_shape if self.resize is None else (*self.resize, *self.raw_shape[2:])

    @property
    def open_shape(self) -> tuple[int | None, ...]:
        """The shape of a batch as signatures take it: of any size where images are resized."""
        if self.resize is None:
            return (None, *self.raw_shape)
        return (None, None, None, *self.raw_shape[2:])

    def apply(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return the batch `raw` as the model takes it, in a new array; texts as they are."""
        if self.are_texts:
            return raw
        if self.resize is None:
            return self.normalization.apply(raw)
        prepared: NDArray[np.float32] = self.in_graph(raw).numpy()
        return prepared

    def in_graph(self, raw: Any) -> Any:
        """Do the same to a batch of tensors."""
        import tensorflow as tf

        if self.are_texts:
            return raw
        return self.normalized(self.resized(tf.cast(raw, tf.float32)))

    def resized(self, batch: Any, size: tuple[int, int] | None = None) -> Any:
        """Bring a float32 batch of images to `size`, or to what examples are resized to."""
        import tensorflow as tf

        from ladle.export.data.picture_graph import fit

        size = size or self.resize
        if size is None:
            return batch
        if len(self.raw_shape) == 3:
            return fit(batch, size)
        return fit(batch[..., tf.newaxis], size)[..., 0]

    def normalized(self, batch: Any) -> Any:
        """Do in the graph what `Normalization.apply` does in NumPy."""
        import tensorflow as tf

        if self.are_texts:
            return batch

        if np.any(self.normalization.offset):
            batch -= tf.constant(self.normalization.offset, tf.float32)
        return batch / tf.constant(self.normalization.divisor, tf.float32)

    def decoded(self, encoded: Any) -> Any:
        """Decode one PNG, JPEG, GIF or BMP to float32 pixels of the shape that a model takes."""
        import tensorflow as tf

        from ladle.export.data.picture_graph import decode, fit

        pixels = decode(encoded, self.channels)
        pixels.set_shape([None, None, self.channels])
        height, width = self.model_shape[:2]
        return tf.reshape(fit(pixels, (height, width)), self.model_shape)
