"""A caller's values as numpy arrays: what is taken, and what is refused by name.

Pure functions, safe in any thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ladle.client.errors import InvalidInput
from ladle.client.inputs.frames import Table
from ladle.client.inputs.images import is_picture
from ladle.protos.files.frames import Frame, columns_of, has_missing, is_frame


class PILImage(Protocol):
    """A `PIL.Image.Image`, recognised by a method that only it has."""

    def getexif(self) -> Any:
        """Return the EXIF data."""


class SupportsDLPack(Protocol):
    """A tensor of any library that exports DLPack."""

    def __dlpack__(self) -> Any:
        """Return a capsule."""

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the device that holds the values."""


Picture: TypeAlias = "PILImage | bytes | str | os.PathLike[str]"
"""A PIL image, an image file's bytes, or its path."""

Values: TypeAlias = "ArrayLike | SupportsDLPack | Picture | Sequence[Picture]"
"""The values of one input: anything that numpy converts to an array; or pictures, for an input
whose shape is an image's."""

Inputs: TypeAlias = "Values | Frame | Mapping[str, Values]"
"""The inputs of a model: values by input name, or the values of its only input. The columns of a
DataFrame are the inputs of these names or, for a model with one input, its `[rows, columns]`."""

Arrays: TypeAlias = "NDArray[Any] | dict[str, NDArray[Any]]"
"""Inputs as arrays: by name, or the array of the only input."""

_NO_DATES = (
    "expected numbers or text, since tensors have no dates and times; give seconds since 1970, or"
    " text"
)


def as_arrays(inputs: Inputs) -> Arrays:
    """Return the inputs as arrays; arrays are not copied.

    Raises:
        InvalidInput: A value is no array, and nothing that converts to one without loss.
    """
    if isinstance(inputs, Mapping):
        odd = next((name for name in inputs if not isinstance(name, str)), None)
        if odd is not None:
            raise InvalidInput(f"inputs: expected names that are text, got {_a(odd)}: {odd!r}")
        return {name: _as_array(values, f'input "{name}"') for name, values in inputs.items()}
    if is_frame(inputs):
        try:
            columns = columns_of(inputs)
        except ValueError as error:
            raise InvalidInput(f"inputs: {error}") from None
        return Table({name: _as_array(c, f'column "{name}"') for name, c in columns.items()})
    return _as_array(inputs, "inputs")


def _as_array(values: Any, what: str) -> NDArray[Any]:
    if is_picture(values):
        values = [values]
    if isinstance(values, list | tuple) and values and is_picture(values[0]):
        pictures = np.empty(len(values), object)
        for index, picture in enumerate(values):  # numpy would read the pixels of each
            pictures[index] = picture
        return pictures
    if isinstance(values, np.ma.MaskedArray):
        if np.any(np.ma.getmaskarray(values)):
            raise InvalidInput(
                f"{what}: expected an array without masked values, since tensors have none; "
                "fill them: array.filled(value)"
            )
        values = np.ma.getdata(values)
    if has_missing(values):
        raise InvalidInput(
            f"{what}: expected a value in each row of this {_name_of(values)}, since tensors have"
            " no missing values; fill what is missing"
        )
    try:
        array = _converted(values)
    except MemoryError:
        raise
    except Exception as error:  # __array__ and __dlpack__ of any library raise anything
        reason = str(error) or type(error).__name__
        raise InvalidInput(
            f"{what}: numpy can't make an array of this {_name_of(values)}: {reason}"
        ) from error
    if array.dtype.kind in "mM":
        raise InvalidInput(f"{what}: {_NO_DATES}, got {array.dtype}")
    if array.dtype == object:
        array = _of_values(array)
    if array.dtype == object:
        _check_objects(array, values, what)
    return array


def _converted(values: Any) -> NDArray[Any]:
    if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
        return np.from_dlpack(values)
    try:
        array = np.asarray(values)
    except UnicodeDecodeError:  # text and bytes in one list
        return np.asarray(values, object)
    if array.dtype.kind in "SU" and not isinstance(values, np.ndarray | np.generic):
        # numpy's fixed-width strings end at the last character that is not NUL, and the
        # serialised messages that models take as strings may end in NULs.
        return np.asarray(values, object)
    if array.dtype.kind == "T":  # numpy's strings of any width
        return array.astype(object)
    return array


def _of_values(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of objects as one of numbers, where all are numbers, or lists of one length.

    DataFrames hold numbers so, and lists.
    """
    flat = array.ravel().tolist()
    if not flat or not (all(map(_is_number, flat)) or all(map(_is_list, flat))):
        return array
    try:
        made = np.asarray(flat)
    except ValueError:  # lists of several lengths
        return array
    if made.dtype.kind not in "biufc":
        return array
    return made.reshape(array.shape + made.shape[1:])


def _check_objects(array: NDArray[Any], values: Any, what: str) -> None:
    """Check that an array of objects holds text, bytes or pictures.

    Raises:
        InvalidInput: It holds something else.
    """
    flat = array.ravel().tolist()
    odd = [i for i, value in enumerate(flat) if not (_is_text(value) or is_picture(value))]
    if not odd:
        return
    if not array.ndim:
        raise InvalidInput(f"{what}: expected an array, or a list of values, got {_a(values)}")
    # Where numbers stand beside something that is no number, that is to blame.
    index = next((i for i in odd if _is_missing(flat[i]) or not _is_number(flat[i])), odd[0])
    at = [int(i) for i in np.unravel_index(index, array.shape)]
    advice = "; fill what is missing" if _is_missing(flat[index]) else ""
    if hasattr(flat[index], "isoformat"):
        raise InvalidInput(f"{what}: {_NO_DATES}, got {_a(flat[index])} at {at}")
    if _is_list(flat[index]):
        advice = "; lists have to be of numbers, and of one length"
    raise InvalidInput(
        f"{what}: expected all numbers, or all text or bytes, got {_a(flat[index])} at {at}{advice}"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | complex | np.number)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_missing(value: object) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or _name_of(value) in ("NAType", "NaTType")


def _name_of(value: object) -> str:
    return type(value).__name__


def _a(value: object) -> str:
    if value is None:
        return "None"
    name = _name_of(value)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
