"""Pictures made into arrays of raw pixels; needs Pillow: `pip install 'ladle[images]'`.

A picture is a PIL image, the bytes of an image file (JPEG, PNG, whatever Pillow reads), or the path
of one.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image

_MODES = {None: "L", 1: "L", 3: "RGB", 4: "RGBA", -1: "RGB"}


class Pixels(NamedTuple):
    """The size and channels that an input declares for each picture."""

    height: int
    """-1 for any: the picture keeps its own."""
    width: int
    channels: int | None
    """None for grey without a channel dimension; -1 for any, which means colour."""

    def __str__(self) -> str:
        sizes = (self.height, self.width, self.channels)
        return str([size for size in sizes if size is not None])


def expected_pixels(shape: tuple[int, ...] | None) -> Pixels | None:
    """Return the pixels that a shape declares; None if it isn't `[batch, height, width(, c)]`."""
    if shape is None or len(shape) not in (3, 4):
        return None
    if any(size < 1 and size != -1 for size in shape[1:3]):
        return None  # no image has such a size
    channels = shape[3] if len(shape) == 4 else None
    return Pixels(shape[1], shape[2], channels) if channels in _MODES else None


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

    Each picture is rotated as its EXIF orientation says, converted to grey or colour, and resized
    (bilinear).

    Raises:
        InvalidInput: A picture can't be read, or their sizes differ and the input declares none.
        ImportError: Pillow is not installed.
    """
    arrays = []
    for index, picture in enumerate(pictures.ravel().tolist()):
        try:
            arrays.append(_pixels(picture, expected))
        except (ImportError, MemoryError):  # not the picture's fault
            raise
        except Exception as error:  # decoders raise anything for bytes that are broken
            about = f' "{picture}"' if isinstance(picture, str | os.PathLike) else ""
            reason = str(error) or type(error).__name__
            raise InvalidInput(f"picture {index}{about}: {reason}") from error
    return _batch(arrays)


def resize(images: NDArray[np.uint8], expected: Pixels) -> NDArray[np.uint8]:
    """Return images, of shape `[batch, height, width(, channels)]`, as `load` returns pictures.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InvalidInput(
            f"expected images of {expected}, got {list(images.shape[1:])}; resizing needs "
            "Pillow: pip install 'ladle[images]'"
        ) from None
    flat = images[..., 0] if images.shape[3:] == (1,) else images
    return _batch([_fitted(Image.fromarray(image), expected) for image in flat])


def _batch(arrays: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise InvalidInput(
            f"pictures: the model takes any size, but all pictures of a batch need the same; "
            f"got {sorted(sizes)}"
        )
    return np.stack(arrays)


def _pixels(picture: object, expected: Pixels) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise ImportError("pictures need Pillow: pip install 'ladle[images]'") from None
    try:
        with _opened(picture) as image:
            upright = ImageOps.exif_transpose(image)
            return _fitted(upright, expected)
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _fitted(image: Image.Image, expected: Pixels) -> NDArray[np.uint8]:
    """Return an image with the expected channels and size."""
    from PIL import Image

    converted = _converted(image, _MODES[expected.channels])
    width = converted.width if expected.width == -1 else expected.width
    height = converted.height if expected.height == -1 else expected.height
    if (width, height) != converted.size:
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(converted, np.uint8)
    return array[..., None] if expected.channels == 1 else array


def _opened(picture: object) -> Image.Image:
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture.copy()  # what is opened here is closed, and this is the caller's
    if isinstance(picture, bytes):
        return Image.open(io.BytesIO(picture))
    if isinstance(picture, str | os.PathLike):
        return Image.open(picture)
    raise TypeError(
        f"expected a PIL image, an image file's bytes or its path, got {type(picture).__name__}"
    )


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16"):
        # Pillow would cut off all above 255.
        from PIL import Image

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError(f'its pixels, of mode "{image.mode}", have no known range')
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert(mode)
