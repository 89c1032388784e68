"""The conversion of one input into the declared tensor: chosen by dtype and shape, then applied.

Pure functions, safe in any thread.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput
from ladle.client.inputs.images import Pixels, are_images, expected_pixels, load, resize
from ladle.client.models import ModelMetadata, TensorSpec
from ladle.protos import dtypes
from ladle.protos.model_card import Normalization

Normalize: TypeAlias = "Literal['auto', 'client', 'server'] | Normalization | None"
"""How raw pixels are normalised. Raw pixels are uint8 arrays or pictures for an input of floats.
"client": in this process, as the model's card says. "server": by the model's signature for raw
pixels. "auto": "server" where the model has such a signature, else "client". A Normalization: in
this process, with these numbers. None: not at all; the numbers are sent as they are."""


# Pairs of the kind of a dtype that is given and the kind that it is cast to.
_CASTS = {
    ("float", "float"),
    ("integer", "integer"),
    ("integer", "float"),
    ("complex", "complex"),
    ("bool", "integer"),
    ("bool", "float"),
}
# Up to this magnitude each integer has an exact float of that dtype.
_EXACT_UP_TO = {"bfloat16": 1 << 8, "float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
_LARGEST_SIDE = 1 << 14  # a card may be anybody's
_EXACT_UP_TO_AT_LEAST = 1 << 3  # float8_e5m2


class Conversion(NamedTuple):
    """How one input is changed before it is sent: the fields apply from the last to the first."""

    dtype: np.dtype[Any] | None = None
    """The dtype to cast to; None for no cast."""
    normalization: Normalization | None = None
    """The normalisation of raw pixels; None for none."""
    pixels: Pixels | None = None
    """The size and channels for pictures, or for images of another size; None for no change."""
    is_column: bool = False
    """Whether `[rows]` becomes `[rows, 1]`."""


def conversion_for(
    name: str, array: NDArray[Any], spec: TensorSpec, metadata: ModelMetadata, normalize: Normalize
) -> Conversion:
    """Return the conversion of an array into the tensor that an input declares.

    Raises:
        InvalidInput: Its dtype or shape can't be converted, or no normalisation is known for raw
            pixels.
    """
    source = kind_of(array.dtype)

    def refuse(advice: str = "") -> InvalidInput:
        dtype = "string" if source == "string" else array.dtype
        actual = f"{dtype} {list(array.shape)}"
        message = f'input "{name}" of {about(metadata)}: expected {spec}, got {actual}'
        return InvalidInput(f"{message}; {advice}" if advice else message)

    pixels = expected_pixels(spec.shape) if source == "string" and array.ndim <= 1 else None
    if pixels is not None:
        pixels = _of_training(pixels, metadata)
    if pixels is not None and spec.data_type != dtypes.STRING:
        if not array.size:
            raise refuse()
        # An array of the resulting shape and dtype, for the checks; it takes no memory.
        seen = np.broadcast_to(np.uint8(0), (array.size, *_sizes(pixels)))
        return conversion_for(name, seen, spec, metadata, normalize)._replace(pixels=pixels)
    expected = expected_pixels(spec.shape)
    is_other = spec.shape is not None and not fits(array.shape, spec.shape)
    if is_other and expected is not None and _may_be_resized(array, metadata, normalize):
        seen = np.broadcast_to(np.uint8(0), (len(array), *_sizes(expected)))
        if are_images(array.shape) and fits(seen.shape, spec.shape or ()):
            return conversion_for(name, seen, spec, metadata, normalize)._replace(pixels=expected)
        raise refuse("images of other sizes come as a batch, [batch, height, width(, channels)]")
    if spec.shape is not None and not fits(array.shape, spec.shape):
        single = fits((1, *array.shape), spec.shape)
        batch = "[value]" if source == "string" else "array[None]"
        raise refuse(f"make a batch of the single example: {batch}" if single else "")
    try:
        declared = spec.dtype
    except dtypes.UnsupportedDtype:
        return Conversion()  # numpy has no such dtype; the server checks it
    if array.dtype == declared:
        return Conversion()
    target = kind_of(declared)
    if source == target == "string":
        return Conversion()
    if (source, target) == ("integer", "float") and normalize is not None:
        recorded = metadata.card.normalization if metadata.card else None
        if metadata.card is not None and metadata.card.columns:
            return Conversion(declared)  # the numbers of a table are no pixels
        if array.dtype == np.uint8:
            normalization = recorded if isinstance(normalize, str) else normalize
            if normalization is None:
                raise refuse(_no_normalization(metadata))
            return Conversion(declared, normalization)
        if isinstance(normalize, str) and recorded is not None:
            raise refuse(
                "pass raw pixels as uint8, normalised ones as floats, "
                "or normalize=None to send the numbers as they are"
            )
    if array.dtype.kind in "mM":
        raise refuse("tensors have no dates and times: give seconds since 1970, or text")
    if (source, target) not in _CASTS:
        raise refuse()
    return Conversion(declared)


def _of_training(pixels: Pixels, metadata: ModelMetadata) -> Pixels:
    """Return the size that the training resized its images to, where the input takes any size.

    Pictures of several sizes make one batch so, and less is sent.
    """
    size = metadata.card.provenance.get("resize") if metadata.card else None
    match size:
        case [int(height), int(width)] if pixels.height == pixels.width == -1:
            if 0 < height <= _LARGEST_SIDE and 0 < width <= _LARGEST_SIDE:
                return pixels._replace(height=height, width=width)
    return pixels


def _may_be_resized(array: NDArray[Any], metadata: ModelMetadata, normalize: Normalize) -> bool:
    """Return whether an array holds raw pixels of images, and their normalisation is known."""
    recorded = metadata.card.normalization if metadata.card else None
    is_told = isinstance(normalize, Normalization) or recorded is not None
    return array.dtype == np.uint8 and array.ndim > 2 and normalize is not None and is_told


def _sizes(pixels: Pixels) -> tuple[int, ...]:
    """Return the shape of one converted picture, with 0 for a size that is not known yet."""
    sizes = (max(pixels.height, 0), max(pixels.width, 0))
    return sizes if pixels.channels is None else (*sizes, max(pixels.channels, 0))


def fits(actual: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Return whether a shape matches a declared one, where -1 stands for any size."""
    return len(actual) == len(declared) and all(
        expected in (-1, size) for size, expected in zip(actual, declared, strict=True)
    )


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return "integer", "float", "complex" or "string"; for any other dtype its name."""
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind in "OSU":
        return "string"
    if dtype.kind == "c":
        return "complex"
    # numpy calls only some of ml_dtypes' floats floats, but their names begin alike.
    return "float" if dtype.name.startswith(("float", "bfloat")) else dtype.name


def apply(name: str, conversion: Conversion, array: NDArray[Any]) -> NDArray[Any]:
    """Return the converted array; the same object if nothing is to be changed.

    Raises:
        InvalidInput: Values that the dtype can't hold, a normalisation for another number of
            channels, or pictures that can't be read.
    """
    if conversion.is_column:
        array = array[:, None]
    if conversion.pixels is not None:
        try:
            make = resize if array.dtype == np.uint8 else load
            array = make(array, conversion.pixels)
        except InvalidInput as error:
            raise InvalidInput(f'input "{name}": {error}') from error.__cause__
    if conversion.normalization is not None:
        try:
            array = conversion.normalization.apply(array)
        except ValueError as error:
            raise InvalidInput(
                f'input "{name}": {conversion.normalization} does not apply to shape '
                f"{list(array.shape)}: {error}"
            ) from error
    if conversion.dtype is None or array.dtype == conversion.dtype:
        return array
    if kind_of(array.dtype) == "integer":
        _check_range(name, array, conversion.dtype)
    try:
        with np.errstate(over="raise"):
            return array.astype(conversion.dtype)
    except FloatingPointError as error:
        raise InvalidInput(f'input "{name}": values too large for {conversion.dtype}') from error


def _check_range(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if not array.size or np.can_cast(array.dtype, dtype, "safe"):
        return
    if kind_of(dtype) == "integer":
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    else:
        high = _EXACT_UP_TO.get(dtype.name, _EXACT_UP_TO_AT_LEAST)
        low = -high
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise InvalidInput(
            f'input "{name}": expected {dtype}, which holds integers from {low} to {high} exactly, '
            f"got {array.dtype} from {least} to {most}"
        )


def _no_normalization(metadata: ModelMetadata) -> str:
    if metadata.card_error:
        why = f"its card can't be read ({metadata.card_error})"
    else:
        why = "no normalisation is recorded with the model"
    return (
        f"{why}: pass normalize=Normalization(divisor=255), or whatever the training did, "
        "send what the signature takes, or pass normalize=None to send the numbers as they are"
    )


def about(metadata: ModelMetadata) -> str:
    """Return the words for a model in messages."""
    version = f" version {metadata.version}" if metadata.version is not None else ""
    return f'model "{metadata.model}"{version}'
