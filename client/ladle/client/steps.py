"""What is done to one input before it is sent: decided from its dtype and shape, then carried out.

Pure functions, safe in any thread.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput
from ladle.client.images import Pixels, are_images, load, resize, wanted_of
from ladle.client.models import ModelMetadata, TensorSpec
from ladle.protos import dtypes
from ladle.protos.model_card import Normalization

Normalize: TypeAlias = "Literal['auto', 'client', 'server'] | Normalization | None"
"""What becomes of raw pixels, uint8 arrays or pictures for an input of floats: normalised as the
model's card says, here ("client") or by the model's own signature for raw pixels ("server"), or
there if it has one and else here ("auto"); normalised here as the caller says; or sent as the
numbers that they are (None)."""


# From which kind of dtype to which other values are taken over.
_CASTS = {
    ("float", "float"),
    ("integer", "integer"),
    ("integer", "float"),
    ("complex", "complex"),
}
# The largest magnitude up to which every integer has a float of its own.
_EXACT_UP_TO = {"bfloat16": 1 << 8, "float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
_EXACT_UP_TO_AT_LEAST = 1 << 3  # float8_e5m2


class Step(NamedTuple):
    """What is done to one input before it is sent."""

    dtype: np.dtype[Any] | None = None
    """What its values become; None leaves them alone."""
    normalization: Normalization | None = None
    """Applied before, where the input is raw pixels."""
    pixels: Pixels | None = None
    """What pictures, or images of another size, are made into before all else."""


def step_for(
    name: str, array: NDArray[Any], spec: TensorSpec, metadata: ModelMetadata, normalize: Normalize
) -> Step:
    """Return what makes an array into what an input declares.

    Raises:
        InvalidInput: Its dtype or shape can't be made into that, or nothing tells how raw pixels
            are normalised.
    """

    def refuse(advice: str = "") -> InvalidInput:
        given = f"{array.dtype} {list(array.shape)}"
        message = f'input "{name}" of {about(metadata)}: expected {spec}, got {given}'
        return InvalidInput(f"{message}; {advice}" if advice else message)

    source = kind_of(array.dtype)
    pixels = wanted_of(spec.shape) if source == "string" and array.ndim <= 1 else None
    if pixels is not None and spec.data_type != dtypes.STRING:
        if not array.size:
            raise refuse()
        # What they will be, as far as checks go; it takes no memory.
        seen = np.broadcast_to(np.uint8(0), (array.size, *_sizes(pixels)))
        return step_for(name, seen, spec, metadata, normalize)._replace(pixels=pixels)
    wanted = wanted_of(spec.shape)
    is_other = spec.shape is not None and not fits(array.shape, spec.shape)
    if is_other and wanted is not None and _may_be_resized(array, metadata, normalize):
        seen = np.broadcast_to(np.uint8(0), (len(array), *_sizes(wanted)))
        if are_images(array.shape) and fits(seen.shape, spec.shape or ()):
            return step_for(name, seen, spec, metadata, normalize)._replace(pixels=wanted)
        raise refuse("images of other sizes come as a batch, [batch, height, width(, channels)]")
    if spec.shape is not None and not fits(array.shape, spec.shape):
        single = fits((1, *array.shape), spec.shape)
        raise refuse("make a batch of the single example: array[None]" if single else "")
    try:
        declared = spec.dtype
    except dtypes.UnsupportedDtype:
        return Step()  # nothing that this client could make of it; the server decides
    if array.dtype == declared:
        return Step()
    target = kind_of(declared)
    if source == target == "string":
        return Step()
    if (source, target) == ("integer", "float") and normalize is not None:
        recorded = metadata.card.normalization if metadata.card else None
        if array.dtype == np.uint8:
            normalization = recorded if isinstance(normalize, str) else normalize
            if normalization is None:
                raise refuse(_no_normalization(metadata))
            return Step(declared, normalization)
        if isinstance(normalize, str) and recorded is not None:
            raise refuse(
                "pass raw pixels as uint8, normalised ones as floats, "
                "or normalize=None to send the numbers as they are"
            )
    if (source, target) not in _CASTS:
        raise refuse()
    return Step(declared)


def _may_be_resized(array: NDArray[Any], metadata: ModelMetadata, normalize: Normalize) -> bool:
    """Tell whether numbers are raw pixels of images: where somebody says how those are scaled."""
    recorded = metadata.card.normalization if metadata.card else None
    is_told = isinstance(normalize, Normalization) or recorded is not None
    return array.dtype == np.uint8 and array.ndim > 2 and normalize is not None and is_told


def _sizes(pixels: Pixels) -> tuple[int, ...]:
    """Return the shape of one picture made so, 0 where it isn't known; good for checks alone."""
    sizes = (max(pixels.height, 0), max(pixels.width, 0))
    return sizes if pixels.channels is None else (*sizes, max(pixels.channels, 0))


def fits(given: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Tell whether a shape is a declared one, of which -1 stands for any size."""
    return len(given) == len(declared) and all(
        size in (-1, actual) for actual, size in zip(given, declared, strict=True)
    )


def kind_of(dtype: np.dtype[Any]) -> str:
    """Return "integer", "float", "complex", "string", or the name of what is none of these."""
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind in "OSU":
        return "string"
    if dtype.kind == "c":
        return "complex"
    # numpy counts only some of ml_dtypes' types as floats, but all tell by their names.
    return "float" if dtype.name.startswith(("float", "bfloat")) else dtype.name


def take(name: str, step: Step, array: NDArray[Any]) -> NDArray[Any]:
    """Return an array with the step done; itself where nothing is to be done.

    Raises:
        InvalidInput: Values that the dtype can't hold, a normalisation for another number of
            channels, or pictures that can't be read.
    """
    if step.pixels is not None:
        try:
            make = resize if array.dtype == np.uint8 else load
            array = make(array, step.pixels)
        except InvalidInput as error:
            raise InvalidInput(f'input "{name}": {error}') from error.__cause__
    if step.normalization is not None:
        try:
            array = step.normalization.apply(array)
        except ValueError as error:
            raise InvalidInput(
                f'input "{name}": {step.normalization} does not apply to shape '
                f"{list(array.shape)}: {error}"
            ) from error
    if step.dtype is None or array.dtype == step.dtype:
        return array
    if kind_of(array.dtype) == "integer":
        _check_range(name, array, step.dtype)
    try:
        with np.errstate(over="raise"):
            return array.astype(step.dtype)
    except FloatingPointError as error:
        raise InvalidInput(f'input "{name}": values too large for {step.dtype}') from error


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
    """Return how messages name a model."""
    version = f" version {metadata.version}" if metadata.version is not None else ""
    return f'model "{metadata.model}"{version}'
