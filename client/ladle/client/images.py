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
    """What an input wants of each picture."""

    height: int
    """-1 for the picture's own."""
    width: int
    channels: int | None
    """None for grey without a dimension for it; -1 for any, which is taken for colour."""


def wanted_of(shape: tuple[int, ...] | None) -> Pixels | None:
    """Return what an input of this shape wants; None if it isn't `[batch, height, width(, c)]`."""
    if shape is None or len(shape) not in (3, 4):
        return None
    channels = shape[3] if len(shape) == 4 else None
    return Pixels(shape[1], shape[2], channels) if channels in _MODES else None


def is_picture(value: object) -> bool:
    """Tell whether a value is a PIL image or a path; bytes and text may be something else."""
    # Named, not imported: whoever has a PIL image has imported it.
    return isinstance(value, os.PathLike) or any(
        kind.__module__ == "PIL.Image" for kind in type(value).__mro__
    )


def load(pictures: NDArray[Any], wanted: Pixels) -> NDArray[np.uint8]:
    """Return pictures, an object array, as raw pixels `[batch, height, width(, channels)]`.

    Each is turned the way its EXIF says, made grey or coloured, and resized (bilinear).

    Raises:
        InvalidInput: One can't be read, or they are of several sizes and the input tells none.
        ImportError: Pillow is not installed.
    """
    arrays = []
    for index, picture in enumerate(pictures.ravel().tolist()):
        try:
            arrays.append(_pixels(picture, wanted))
        except (OSError, ValueError, SyntaxError, TypeError) as error:
            about = f' "{picture}"' if isinstance(picture, str | os.PathLike) else ""
            raise InvalidInput(f"picture {index}{about}: {error}") from error
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise InvalidInput(
            f"pictures: the model takes any size, and then all of a batch need the same; "
            f"got {sorted(sizes)}"
        )
    return np.stack(arrays)


def _pixels(picture: object, wanted: Pixels) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError:
        raise ImportError("pictures need Pillow: pip install 'ladle[images]'") from None
    try:
        with _opened(picture) as image:
            upright = ImageOps.exif_transpose(image)
            converted = _converted(upright, _MODES[wanted.channels])
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None
    width = converted.width if wanted.width == -1 else wanted.width
    height = converted.height if wanted.height == -1 else wanted.height
    if (width, height) != converted.size:
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(converted, np.uint8)
    return array[..., None] if wanted.channels == 1 else array


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
