"""The one preparation of pictures: what training reads and what a client sends are made here.

A picture is turned as its EXIF orientation says, converted to grey or colour, and resized. A
SavedModel does the same in its graph (`ladle.export.data.picture_graph`), within 1 of 255; what is
changed here has to be changed there. Needs Pillow.
"""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos.files.regular_file import check_regular

if TYPE_CHECKING:
    from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode for a number of channels."""

_ORIENTATION = 0x0112
_SWAPPED = (5, 6, 7, 8)
# Orientations in places where only few programs look for them.
_OTHER_METADATA = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif", "Raw profile type xmp")
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")


class Header(NamedTuple):
    """What a picture's file says of it before it is decoded."""

    height: int
    """Once it is turned upright."""
    width: int
    is_grey: bool


def read_header(picture: bytes | str | os.PathLike[str]) -> Header:
    """Return the size and kind of an encoded picture or its file; it is not decoded.

    Raises:
        ValueError: It is no picture that Pillow reads.
        OSError: The file can't be read.
    """
    with _opened(picture) as image:
        width, height = image.size
        if _orientation(image) in _SWAPPED:
            width, height = height, width
        return Header(height, width, image.mode in _GREY_MODES)


def read_pixels(
    picture: bytes | str | os.PathLike[str] | Image.Image, size: tuple[int, int], channels: int
) -> NDArray[np.uint8]:
    """Return a picture's pixels, [height, width, channels].

    Args:
        picture: A PIL image, which is left as it is, or an encoded one, or the path of its file.
        size: Height and width to bring it to; -1 for its own.
        channels: 1, 3 or 4: grey, colour, or colour with alpha.

    Raises:
        ValueError: It is no picture that Pillow reads, or its pixels have no known range.
        OSError: It can't be read, or ends early.
        ImportError: Pillow is not installed.
    """
    with _opened(picture) as image:
        from PIL import ImageOps

        if _orientation(image) > 1:
            image = ImageOps.exif_transpose(image)
        return _fitted(image, size, channels)


def resize_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], channels: int
) -> NDArray[np.uint8]:
    """Return pixels [height, width] or [height, width, channels] as `read_pixels` returns them.

    Raises:
        ImportError: Pillow is not installed.
    """
    from PIL import Image

    flat = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    return _fitted(Image.fromarray(flat), size, channels)


def _opened(
    picture: bytes | str | os.PathLike[str] | Image.Image,
) -> AbstractContextManager[Image.Image]:
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, Image.Image):
        return picture.copy()  # what is opened here is closed, and this is the caller's
    if not isinstance(picture, bytes | str | os.PathLike):
        raise TypeError(
            f"expected a PIL image, an image file's bytes or its path, got {type(picture).__name__}"
        )
    if not isinstance(picture, bytes):
        check_regular(picture)  # a FIFO would be waited for
    try:
        return Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, where there is none or it is damaged."""
    for name in _OTHER_METADATA:
        image.info.pop(name, None)
    with suppress(Exception):  # whatever damaged EXIF data make Pillow raise
        orientation = image.getexif().get(_ORIENTATION, 1)
        return orientation if orientation in range(1, 9) else 1
    return 1


def _fitted(image: Image.Image, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    from PIL import Image

    converted = _converted(image, MODES[channels])
    height = converted.height if size[0] == -1 else size[0]
    width = converted.width if size[1] == -1 else size[1]
    if (width, height) != converted.size:
        # Each channel by itself: Pillow would weight the colours by alpha.
        bands = [
            band.resize((width, height), Image.Resampling.BILINEAR) for band in converted.split()
        ]
        converted = Image.merge(converted.mode, bands)
    return np.asarray(converted, np.uint8).reshape(height, width, channels)


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
    if mode == "L" and image.mode not in _GREY_MODES:
        image = image.convert("RGB")
    return image.convert(mode)
