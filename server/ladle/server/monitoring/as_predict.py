"""Requests and answers of the Open Inference Protocol as Predict's, so that logs warm models up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.datatypes import BY_NAME, LENGTH
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.protos.serving_pb import ModelSpec, PredictRequest, PredictResponse
from ladle.protos.tensorflow_pb import TensorProto


def predict_request(data: bytes, spec: ModelSpec) -> PredictRequest:
    """Return the PredictRequest of the same inputs as a serialized ModelInferRequest.

    Args:
        data: a request that was answered.
        spec: the model, version and signature that have answered it.
    """
    message = ModelInferRequest.FromString(data)
    request = PredictRequest(
        model_spec=spec, output_filter=[output.name for output in message.outputs]
    )
    for at, tensor in enumerate(message.inputs):
        raw = message.raw_input_contents[at] if message.raw_input_contents else None
        request.inputs[tensor.name].CopyFrom(_proto(tensor, raw))
    return request


def predict_response(
    data: bytes, spec: ModelSpec, outputs: Mapping[str, NDArray[Any]]
) -> PredictResponse:
    """Return the PredictResponse of the same outputs as a serialized ModelInferResponse.

    Args:
        data: the answer.
        spec: the model, version and signature that have given it.
        outputs: those that the answer holds something else of, by alias.
    """
    message = ModelInferResponse.FromString(data)
    response = PredictResponse(model_spec=spec)
    for at, tensor in enumerate(message.outputs):
        array = outputs.get(tensor.name)
        if array is None:
            raw = message.raw_output_contents[at] if message.raw_output_contents else None
            response.outputs[tensor.name].CopyFrom(_proto(tensor, raw))
        else:
            response.outputs[tensor.name].CopyFrom(tensors.to_proto(array))
    return response


def _proto(
    tensor: ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor,
    raw: bytes | None,
) -> TensorProto:
    datatype = BY_NAME[tensor.datatype]
    if raw is not None and datatype.data_type != dtypes.STRING and datatype.name != "BOOL":
        proto = TensorProto(dtype=datatype.data_type, tensor_content=raw)
        for size in tensor.shape:
            proto.tensor_shape.dim.add(size=size)
        return proto
    array: NDArray[Any]
    if raw is None:
        values = getattr(tensor.contents, datatype.field) if datatype.field else []
        array = np.empty(len(values), datatype.dtype)
        array[:] = list(values)
    elif datatype.name == "BOOL":
        array = np.frombuffer(raw, np.uint8) != 0
    else:
        array = _strings(raw)
    return tensors.to_proto(array.reshape(tuple(tensor.shape)))


def _strings(raw: bytes) -> NDArray[Any]:
    """Return the elements of a BYTES tensor that was read without an error before."""
    values: list[bytes] = []
    position = 0
    while position < len(raw):
        (length,) = LENGTH.unpack_from(raw, position)
        position += LENGTH.size
        values.append(raw[position : position + length])
        position += length
    array = np.empty(len(values), object)
    array[:] = values
    return array
