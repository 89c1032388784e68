"""The rows of a batch: put together out of many requests, and given back to each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ladle.server.core.errors import Code, ServingError
from ladle.server.core.machine import malloc
from ladle.server.core.servable import Arrays, Signature

logger = logging.getLogger(__name__)

Outputs: TypeAlias = "dict[str, NDArray[Any]]"

# As upstream: its padding is compiled for these ranks.
_MAX_PADDED_RANK = 6


class RowsLost(Exception):
    """An output has not a row for each row that went in; the message names it."""


def why_not_padded(signature: Signature) -> str | None:
    """Return why requests of different shapes can't run together padded; None if they can.

    An output with an open dimension beside its rows may depend on the padding or not. The
    signature does not say, so the server would not know where to cut the output back.
    """
    for alias, spec in signature.outputs.items():
        if spec.shape is None or -1 in spec.shape[1:]:
            return (
                f"output {alias!r} is declared as {spec}: "
                "what padding adds to an open dimension can't be told from the rest"
            )
    for alias, spec in signature.inputs.items():
        if spec.shape is not None and len(spec.shape) > _MAX_PADDED_RANK:
            return f"input {alias!r} is declared as {spec}, of more than {_MAX_PADDED_RANK} ranks"
    return None


class Padding:
    """Which requests can run with others of another shape. Thread-safe.

    The log says once of each signature that its requests can't.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards writing
        self._why_not: dict[str, str | None] = {}

    def fits(self, signature: Signature, inputs: Arrays) -> bool:
        """Whether these inputs can be padded."""
        name = signature.name
        if name not in self._why_not:
            self._find_out(signature)
        # There is no first value to pad an empty array with.
        return not self._why_not[name] and all(array.size for array in inputs.values())

    def _find_out(self, signature: Signature) -> None:
        name, reason = signature.name, why_not_padded(signature)
        with self._lock:
            is_new = name not in self._why_not
            self._why_not[name] = reason
        if reason and is_new:
            logger.warning(
                "only equal shapes run together, unpadded signature=%s reason=%s", name, reason
            )


def merge_inputs(parts: Sequence[Arrays], rows: int, *, pads: bool) -> Arrays:
    """Return the inputs of one run: the parts' rows in order, filled up to `rows`.

    Rows that are filled up repeat the first row of the last part. With `pads`, dimensions
    beside the rows are filled up to the largest with each array's own first value.
    """
    joined: dict[str, NDArray[Any]] = {}
    for alias in parts[0]:
        arrays = [part[alias] for part in parts]
        if pads and len({array.shape[1:] for array in arrays}) > 1:
            largest = tuple(np.max([array.shape[1:] for array in arrays], axis=0).tolist())
            arrays = [_grown(array, largest) for array in arrays]
        missing = rows - sum(map(len, arrays))
        if missing:
            arrays.append(np.repeat(arrays[-1][:1], missing, axis=0))
        joined[alias] = arrays[0] if len(arrays) == 1 else malloc.joined(arrays)
    return joined


def why_rows_lost(outputs: Mapping[str, NDArray[Any]], rows: int) -> str:
    """Return which output has not a row for each of so many that went in; empty if all have."""
    for alias, array in outputs.items():
        if not array.ndim or array.shape[0] != rows:
            return (
                f"output {alias!r}: expected {rows} rows for a batch of as many, "
                f"got shape {list(array.shape)}"
            )
    return ""


def split_outputs(
    results: Mapping[str, NDArray[Any]], counts: Sequence[int], rows: int
) -> list[Outputs]:
    """Return each part's own rows of the results, as views.

    Args:
        results: the outputs of the run.
        counts: how many rows each part brought; what is left over is padding.
        rows: how many rows went in.

    Raises:
        RowsLost: An output has another number of rows.
    """
    if why := why_rows_lost(results, rows):
        raise RowsLost(why)
    split = []
    start = 0
    for count in counts:
        stop = start + count
        split.append({alias: array[start:stop] for alias, array in results.items()})
        start = stop
    return split


def concat_outputs(parts: Sequence[Outputs]) -> Outputs:
    """Return the outputs of a request that ran in parts.

    Raises:
        ServingError: An output has other shapes in other parts.
    """
    if len(parts) == 1:
        return parts[0]
    joined: Outputs = {}
    for alias in parts[0]:
        arrays = [part[alias] for part in parts]
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise ServingError(
                f"output {alias!r}: expected one shape for all rows, got rows of "
                f"{sorted(map(list, shapes))} from the parts that the request was cut into "
                "(enable_large_batch_splitting): send fewer rows at a time",
                Code.INTERNAL,
            )
        joined[alias] = np.concatenate(arrays)
    return joined


def _grown(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.shape[1:] == shape:
        return array
    grown = np.full((len(array), *shape), array.flat[0], array.dtype)
    grown[tuple(slice(size) for size in array.shape)] = array
    return grown
