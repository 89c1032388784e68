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
from ladle.client.inputs.images import is_picture


class PILImage(Protocol):
    """A `PIL.Image.Image`, recognised by a method that only it has."""

    def getexif(self) -> Any:
        """Return the EXIF data."""


class Frame(Protocol):
    """A DataFrame, such as pandas' and polars': columns by name, each as long as the others."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column."""


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


class Table(dict[str, NDArray[Any]]):
    """The columns of a DataFrame by name, each of shape `[rows]`."""

    def for_inputs(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays for the inputs of a signature.

        Raises:
            InvalidInput: The columns fit neither these inputs nor one array for the only input.
        """
        if len(names) != 1 or set(names) == set(self):
            return self
        dtypes = {str(array.dtype) for array in self.values()}
        if "object" in dtypes and len(dtypes) > 1:
            raise InvalidInput(
                f'input "{names[0]}": expected columns of one kind, got text beside numbers in '
                f"{', '.join(self)}"
            )
        return {names[0]: np.stack([*self.values()], axis=1)}


def stack_columns(
    columns: Mapping[str, NDArray[Any]], names: Sequence[str], name: str
) -> dict[str, NDArray[Any]]:
    """Return the input `name`, `[rows, columns]`, made of columns of numbers, `[rows]` each.

    A single column of texts is the input as it is, `[rows]`.

    Raises:
        InvalidInput: A column holds no numbers, or is not as long as the others.
    """
    if len(names) == 1 and columns[names[0]].dtype.kind in "OSU":
        return {name: columns[names[0]]}
    flat = []
    n_rows = len(columns[names[0]])
    for column in names:
        array = columns[column]
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind not in "biuf" or array.shape != (n_rows,):
            raise InvalidInput(
                f'column "{column}": expected {n_rows} numbers, as in "{names[0]}", '
                f"got {array.dtype} {list(array.shape)}"
            )
        flat.append(array)
    # Numbers of a table are no pixels: as floats they are not taken for such.
    return {name: np.stack(flat, axis=1).astype(np.result_type(np.float32, *flat))}


def as_arrays(inputs: Inputs) -> Arrays:
    """Return the inputs as arrays; arrays are not copied.

    Raises:
        InvalidInput: A value is no array, and nothing that converts to one without loss.
    """
    if isinstance(inputs, Mapping):
        return {name: _as_array(values, f'input "{name}"') for name, values in inputs.items()}
    if _is_frame(inputs):
        frame: Any = inputs
        if not len(frame.columns):
            raise InvalidInput(f"inputs: expected columns, got an empty {_name_of(inputs)}")
        return Table({str(c): _as_array(frame[c], f'column "{c}"') for c in frame.columns})
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
    try:
        array = _converted(values)
    except MemoryError:
        raise
    except Exception as error:  # __array__ and __dlpack__ of any library raise anything
        reason = str(error) or type(error).__name__
        raise InvalidInput(
            f"{what}: numpy can't make an array of this {_name_of(values)}: {reason}"
        ) from error
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
    raise InvalidInput(
        f"{what}: expected all numbers, or all text or bytes, got {_a(flat[index])} at {at}{advice}"
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | complex | np.number)


def _is_missing(value: object) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or _name_of(value) in ("NAType", "NaTType")


def _is_frame(values: Any) -> bool:
    """Return whether a value is a DataFrame, recognised by its attributes: pandas' or polars'."""
    return (
        hasattr(values, "columns")
        and hasattr(values, "to_numpy")
        and not isinstance(values, np.ndarray)
    )


def _name_of(value: object) -> str:
    return type(value).__name__


def _a(value: object) -> str:
    if value is None:
        return "None"
    name = _name_of(value)
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
