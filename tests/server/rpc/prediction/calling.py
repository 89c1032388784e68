"""What the methods are sent that have requests which are alike, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from server.rpc.prediction.grouping import Outcome

from ladle.protos import dtypes, tensors
from ladle.protos.datatypes import BY_NUMBER, to_raw
from ladle.protos.inference_pb import ModelInferRequest, ModelInferResponse
from ladle.protos.serving_pb import PredictRequest, PredictResponse


class Method(NamedTuple):
    """A method, and its messages for the model `m` and its default signature."""

    path: str
    read: Callable[[bytes], bytes]
    """Makes equal bytes of answers that say the same."""
    image: Callable[[NDArray[Any], str], bytes]
    """Returns a request of these rows, with an id if the method has ids."""
    answer: Callable[[NDArray[Any], str, int], bytes]
    """Returns the answer of these rows, with an id, from a version."""

    def images(self, *values: float, rows: int = 1) -> list[bytes]:
        """Return a request for each value, whose id is the value."""
        return [self.image(_rows(value, rows), str(value)) for value in values]

    def doubled(self, *values: float, rows: int = 1, version: int = 1) -> list[Outcome]:
        """Return the answers to `images`."""
        return [
            ("OK", self.read(self.answer(_rows(2 * value, rows), str(value), version)))
            for value in values
        ]


def _rows(value: float, rows: int) -> NDArray[Any]:
    return np.full((rows, 2), value, np.float32)


def predict_request(
    inputs: Mapping[str, Any],
    signature: str = "",
    name: str = "m",
    *,
    typed: bool = False,
    **more: Any,
) -> bytes:
    message = PredictRequest(**more)
    message.model_spec.name = name
    message.model_spec.signature_name = signature
    for alias, array in inputs.items():
        message.inputs[alias].CopyFrom(tensors.to_proto(array, typed=typed))
    return message.SerializeToString()


def in_order(answer: bytes) -> bytes:
    """Return an answer with its map in order: on the wire a map has none."""
    return PredictResponse.FromString(answer).SerializeToString(deterministic=True)


def _predict_answer(y: NDArray[Any], _id: str, version: int) -> bytes:
    message = PredictResponse()
    message.model_spec.name = "m"
    message.model_spec.version.value = version
    message.model_spec.signature_name = "serving_default"
    message.outputs["y"].CopyFrom(tensors.to_proto(y, typed=True))
    return message.SerializeToString()


PREDICT = Method(
    "/tensorflow.serving.PredictionService/Predict",
    in_order,
    lambda x, _id: predict_request({"x": x}),
    _predict_answer,
)


def infer_message(
    inputs: dict[str, NDArray[Any]], *, typed: bool = False, **more: Any
) -> ModelInferRequest:
    made = ModelInferRequest(**{"model_name": "m", **more})
    for name, array in inputs.items():
        datatype = BY_NUMBER[dtypes.from_numpy(array.dtype)]
        tensor = made.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if typed and datatype.field:
            getattr(tensor.contents, datatype.field).extend(array.ravel().tolist())
        else:
            made.raw_input_contents.append(bytes(to_raw(array)))
    return made


def _infer_answer(y: NDArray[Any], request_id: str, version: int) -> bytes:
    message = ModelInferResponse(model_name="m", model_version=str(version), id=request_id)
    message.outputs.add(name="y", datatype="FP32", shape=y.shape)
    message.raw_output_contents.append(y.tobytes())
    return message.SerializeToString()


INFER = Method(
    "/inference.GRPCInferenceService/ModelInfer",
    bytes,
    lambda x, request_id: infer_message({"x": x}, id=request_id).SerializeToString(),
    _infer_answer,
)
