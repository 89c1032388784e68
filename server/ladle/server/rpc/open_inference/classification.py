"""The protocol's classification extension: the best classes of an output, as texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos.datatypes import BY_NUMBER
from ladle.protos.inference_pb import ModelInferRequest
from ladle.protos.model_card import ModelCard
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature

_PARAMETER = "classification"
_MOST_ELEMENTS = 1_000_000
_UNSUPPORTED = ("BYTES", "BOOL", "FP16", "BF16")


def classify_counts(
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor], signature: Signature
) -> Mapping[str, int]:
    """Return how many classes are wanted, by output.

    Raises:
        InvalidArgument: A count is none, or an output has no classes.
    """
    counts = {}
    for output in outputs:
        if _PARAMETER not in output.parameters:
            continue
        value = output.parameters[_PARAMETER]
        if value.WhichOneof("parameter_choice") != "int64_param":
            raise InvalidArgument(
                f"invalid value type for '{_PARAMETER}' parameter, expected int64_param."
            )
        if value.int64_param <= 0:
            raise InvalidArgument(f"invalid value for '{_PARAMETER}' parameter, expected > 0")
        datatype = BY_NUMBER[signature.outputs[output.name].data_type].name
        if datatype in _UNSUPPORTED:
            raise InvalidArgument(
                f"class result not available for output due to unsupported type '{datatype}'"
            )
        counts[output.name] = value.int64_param
    return counts


def classified(
    alias: str, array: NDArray[Any], count: int, *, batched: bool, card: str | None
) -> NDArray[Any]:
    """Return `VALUE:INDEX` or `VALUE:INDEX:LABEL` for the largest elements of each row.

    Args:
        alias: the output's.
        array: the output, `[rows, ...]` if it is batched.
        count: how many of each row, at most.
        batched: whether the first dimension is the rows.
        card: the model card's text; its labels count where there is one for each element.

    Raises:
        InvalidArgument: A row has too many elements to sort.
    """
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)
    if rows.shape[1] > _MOST_ELEMENTS:
        raise InvalidArgument(
            f"classification: expected at most {_MOST_ELEMENTS} elements in a row, "
            f"got {rows.shape[1]}"
        )
    labels = labels_of(card, alias, array.shape, batched=batched)
    best = min(count, rows.shape[1])
    texts = np.empty((rows.shape[0], best), object)
    for at, row in enumerate(rows):
        for place, index in enumerate(_descending(row)[:best]):
            value = row[index]
            shown = f"{value:f}" if row.dtype.kind == "f" else str(int(value))
            label = f":{labels[index]}" if labels else ""
            texts[at, place] = f"{shown}:{index}{label}".encode()
    return texts if batched else texts[0]


def labels_of(
    card: str | None, alias: str, shape: tuple[int, ...] | None, *, batched: bool
) -> tuple[str, ...]:
    """Return the labels of an output's elements, one for each element of a row; or none.

    Args:
        card: the model card's text, if there is one. What it says of the output comes first.
        alias: the output's.
        shape: the output's, -1 for what is open; None where even the rank is.
        batched: whether the first dimension is the rows.
    """
    if card is None or shape is None or len(shape) != (2 if batched else 1):
        return ()
    labels = _labels_of(card, alias)
    return labels if len(labels) == shape[-1] else ()


def _descending(row: NDArray[Any]) -> NDArray[np.intp]:
    """Return indices by value, the largest first; equal values by index; NaN last."""
    if row.dtype.kind == "f":
        return np.argsort(np.where(np.isnan(row), np.inf, -row), kind="stable")
    if row.dtype.kind == "u":
        return np.argsort(row.max(initial=0) - row, kind="stable")
    # Of signed integers the complement has the opposite order, without an overflow.
    return np.argsort(~row, kind="stable")


@lru_cache(maxsize=64)
def _labels_of(card: str, alias: str) -> tuple[str, ...]:
    parsed = ModelCard.from_json(card)
    of_output = parsed.outputs.get(alias)
    own = of_output.get("labels") if isinstance(of_output, dict) else None
    return tuple(map(str, own)) if isinstance(own, list) and own else parsed.labels
