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

    def __str__(self) -> str:
        sizes = (self.height, self.width, self.channels)
        return str([size for size in sizes if size is not None])


def wanted_of(shape: tuple[int, ...] | None) -> Pixels | None:
    """Return what an input of this shape wants; None if it isn't `[batch, height, width(, c)]`."""
    if shape is None or len(shape) not in (3, 4):
        return None
    if any(size < 1 and size != -1 for size in shape[1:3]):
        return None  # no image has such a size
    channels = shape[3] if len(shape) == 4 else None
    return Pixels(shape[1], shape[2], channels) if channels in _MODES else None


def are_images(shape: tuple[int, ...]) -> bool:
    """Tell whether an array of this shape is a batch of images, of any size and any channels.

    `[h, w, 3]` might be one image in colour as well as `h` grey ones, and so it is neither.
    """
    if len(shape) == 3:
        return 0 not in shape and shape[2] not in (1, 3, 4)
    return len(shape) == 4 and 0 not in shape and shape[3] in (1, 3, 4)


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
        except (ImportError, MemoryError):  # not the picture's fault
            raise
        except Exception as error:  # decoders raise anything for bytes that are broken
            about = f' "{picture}"' if isinstance(picture, str | os.PathLike) else ""
            told = str(error) or type(error).__name__
            raise InvalidInput(f"picture {index}{about}: {told}") from error
    return _batch(arrays)


def resize(images: NDArray[np.uint8], wanted: Pixels) -> NDArray[np.uint8]:
    """Return images, of shape `[batch, height, width(, channels)]`, as `load` returns pictures.

    Raises:
        InvalidInput: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InvalidInput(
            f"expected images of {wanted}, got {list(images.shape[1:])}; they are made to fit "
            "where Pillow is installed: pip install 'ladle[images]'"
        ) from None
    flat = images[..., 0] if images.shape[3:] == (1,) else images
    return _batch([_fitted(Image.fromarray(image), wanted) for image in flat])


def _batch(arrays: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
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
            return _fitted(upright, wanted)
    except UnidentifiedImageError:
        raise ValueError("it is no image of a format that Pillow reads") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from None


def _fitted(image: Image.Image, wanted: Pixels) -> NDArray[np.uint8]:
    """Return an image with the channels and the size that are wanted."""
    from PIL import Image

    converted = _converted(image, _MODES[wanted.channels])
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
