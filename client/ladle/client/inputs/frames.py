"""The columns of a table as inputs of a model. Pure functions, safe in any thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput


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
        for column, array in self.items():
            if array.ndim != 1:
                raise InvalidInput(
                    f'input "{names[0]}": expected columns with one value in each row, got lists in'
                    f" {column}; give the array of the input"
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
