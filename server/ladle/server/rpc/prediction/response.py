"""Outputs as a serialized PredictResponse, put together from pieces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import tensors, wire
from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import ResourceExhausted
from ladle.server.core.servable_id import ServableId

_MAX_RESPONSE_BYTES = (1 << 31) - 1  # no gRPC message can be larger


def encode_response(
    outputs: Mapping[str, NDArray[Any]], servable_id: ServableId, signature: str, *, typed: bool
) -> bytes:
    """Return the serialized PredictResponse, each output's values copied once."""
    pieces: list[Any] = []
    size = 0
    for alias, array in outputs.items():
        head = _entry_head(alias, array.dtype, array.shape, typed)
        if head is None:
            entry = wire.map_entry(1, alias, tensors.to_wire(array, typed=typed))
            pieces += entry
            size += wire.size(entry)
        else:
            # The array itself is a buffer, and joined without a copy before.
            pieces += (head, array if array.flags.c_contiguous else array.copy())
            size += len(head) + array.nbytes
    pieces.append(_spec_field(servable_id, signature))
    if size > _MAX_RESPONSE_BYTES:
        raise ResourceExhausted(
            f"the answer takes {size} bytes, more than the {_MAX_RESPONSE_BYTES} of any message: "
            "send fewer rows, or name the outputs that you need in output_filter"
        )
    return b"".join(pieces)


@lru_cache(maxsize=4096)
def _entry_head(
    alias: str, dtype: np.dtype[Any], shape: tuple[int, ...], typed: bool
) -> bytes | None:
    """Return what comes before an output's bytes; None where they need encoding."""
    head = tensors.raw_head(dtype, shape, typed=typed)
    if head is None:
        return None
    return wire.map_entry_head(1, alias, len(head) + math.prod(shape) * dtype.itemsize) + head


@lru_cache(maxsize=4096)
def _spec_field(servable_id: ServableId, signature: str) -> bytes:
    spec = ModelSpec(name=servable_id.name, signature_name=signature)
    spec.version.value = servable_id.version
    return wire.join(wire.bytes_field(2, [spec.SerializeToString()]))
