"""A ModelInferResponse as the body of an answer: JSON, and binary tensors after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.datatypes import BY_NAME
from ladle.protos.inference_pb import ModelInferResponse
from ladle.protos.zero_copy import extract_repeated_bytes
from ladle.server.rest.open_inference.parameters import BINARY_SIZE
from ladle.server.rest.open_inference.values import to_json
from ladle.server.rpc.open_inference.tensors import Tensor, from_raw

_RAW_OUTPUTS = 6


class Body(NamedTuple):
    """What an answer's body is. It can be pickled."""

    content: bytes
    json_length: int | None
    """How many bytes of it are JSON, where binary tensors come after that; None for JSON alone."""


def to_body(answer: bytes, outputs: Mapping[str, bool], *, binary: bool) -> Body:
    """Return the body of an answer.

    Args:
        answer: the serialized ModelInferResponse, in raw form.
        outputs: whether outputs that say so are binary.
        binary: whether all others are.

    Raises:
        InvalidArgument: An output holds bytes that JSON has no form for.
    """
    rest, views = extract_repeated_bytes(answer, _RAW_OUTPUTS)
    message = ModelInferResponse.FromString(rest)
    raws: Sequence[bytes | memoryview] = views or message.raw_output_contents
    described: list[dict[str, Any]] = []
    tensors: list[bytes | memoryview] = []
    for tensor, raw in zip(message.outputs, raws, strict=True):
        fields: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if outputs.get(tensor.name, binary):
            fields["parameters"] = {BINARY_SIZE: len(raw)}
            tensors.append(raw)
        else:
            array = _array(tensor, raw)
            fields["data"] = orjson.Fragment(to_json(array, tensor.name))
        described.append(fields)
    text = orjson.dumps(
        {
            "model_name": message.model_name,
            "model_version": message.model_version,
            "id": message.id,
            "outputs": described,
        }
    )
    if not any(map(len, tensors)):
        return Body(text, None)
    return Body(b"".join([text, *tensors]), len(text))


def _array(tensor: ModelInferResponse.InferOutputTensor, raw: bytes | memoryview) -> NDArray[Any]:
    datatype = BY_NAME[tensor.datatype]
    if datatype.data_type == dtypes.STRING:
        return from_raw(datatype, tuple(tensor.shape), raw, Tensor(tensor.name, ""))
    return np.frombuffer(raw, datatype.dtype)
