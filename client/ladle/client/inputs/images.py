"""Pictures made into arrays of raw pixels; needs Pillow: `pip install 'ladle[images]'`.

A picture is a PIL image, the bytes of an image file (JPEG, PNG, whatever Pillow reads), or the path
of one.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput
from ladle.protos.files.pictures import read_pixels, resize_pixels

_CHANNELS = {None: 1, 1: 1, 3: 3, 4: 4, -1: 3}


MAX_PIXELS = 1 << 26
"""The largest picture that a server can have pictures resized to, in pixels."""


class Pixels(NamedTuple):
    """The size and channels that an input declares for each picture."""

    height: int
    """-1 for any: the picture keeps its own."""
    width: int
    channels: int | None
    """None for grey without a channel dimension; -1 for any, which means colour."""

    @property
    def n_channels(self) -> int:
        """The number of channels that a picture gets."""
        return _CHANNELS[self.channels]

    def __str__(self) -> str:
        sizes = (self.height, self.width, self.channels)
        return str([size for size in sizes if size is not None])


def expected_pixels(shape: tuple[int, ...] | None) -> Pixels | None:
    """Return the pixels that a shape declares; None if it isn't `[batch, height, width(, c)]`."""
    if shape is None or len(shape) not in (3, 4):
        return None
    if any(size < 1 and size != -1 for size in shape[1:3]):
        return None  # no image has such a size
    if shape[1] * shape[2] > MAX_PIXELS:
        return None  # no picture is resized to that: a server could fill this machine's memory
    channels = shape[3] if len(shape) == 4 else None
    return Pixels(shape[1], shape[2], channels) if channels in _CHANNELS else None


def are_images(shape: tuple[int, ...]) -> bool:
    """Return whether an array of this shape is a batch of images, of any size and any channels.

    `[h, w, 3]` might be one image in colour as well as `h` grey ones, and so it is neither.
    """
    if len(shape) == 3:
        return 0 not in shape and shape[2] not in (1, 3, 4)
    return len(shape) == 4 and 0 not in shape and shape[3] in (1, 3, 4)


def is_picture(value: object) -> bool:
    """Return whether a value is a PIL image or a path; bytes and text may be something else."""
    # By name, so that Pillow need not be imported: a caller with a PIL image has imported it.
    return isinstance(value, os.PathLike) or any(
        kind.__module__ == "PIL.Image" for kind in type(value).__mro__
    )


def load(pictures: NDArray[Any], expected: Pixels) -> NDArray[np.uint8]:
    """Return pictures, an object array, as raw pixels `[batch, height, width(, channels)]`.

    `ladle.protos.files.pictures` prepares each of them, as it does for a training.

    Raises:
        InvalidInput: A picture can't be read, or their sizes differ and the input declares none.
        ImportError: Pillow is not installed.
    """
    _check_pillow("pictures need Pillow")
    arrays = []
    for index, picture in enumerate(pictures.ravel().tolist()):
        try:
            pixels = read_pixels(picture, (expected.height, expected.width), expected.n_channels)
        except MemoryError:  # not the picture's fault
            raise
        except Exception as error:  # decoders raise anything for bytes that are broken
            about = f' "{picture}"' if isinstance(picture, str | os.PathLike) else ""
            reason = str(error) or type(error).__name__
            raise InvalidInput(f"picture {index}{about}: {reason}") from error
        arrays.append(pixels)
    return _batch(arrays, expected)


def resize(images: NDArray[np.uint8], expected: Pixels) -> NDArray[np.uint8]:
    """Return images, of shape `[batch, height, width(, channels)]`, as `load` returns pictures.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    try:
        _check_pillow("resizing needs Pillow")
    except ImportError as error:
        raise InvalidInput(
            f"expected images of {expected}, got {list(images.shape[1:])}; {error}"
        ) from None
    size = expected.height, expected.width
    return _batch([resize_pixels(image, size, expected.n_channels) for image in images], expected)


def _check_pillow(what: str) -> None:
    if importlib.util.find_spec("PIL") is None:
        raise ImportError(f"{what}: pip install 'ladle[images]'")


def _batch(arrays: list[NDArray[np.uint8]], expected: Pixels) -> NDArray[np.uint8]:
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise InvalidInput(
            f"pictures: the model takes any size, but all pictures of a batch need the same; "
            f"got {sorted(sizes)}"
        )
    batch = np.stack(arrays)
    return batch[..., 0] if expected.channels is None else batch
