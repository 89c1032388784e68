"""The requests: what is asked of a server, as the bytes that are sent.

Pure functions: no I/O, no grpc, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ladle.client.errors import InvalidInput, MessageTooLarge
from ladle.protos import tensors, wire
from ladle.protos.google_pb import Int64Value
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    PredictRequest,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
METHODS = (PREDICT, GET_MODEL_METADATA, GET_MODEL_STATUS)

# What protobuf can hold in one message, and what gRPC's int options can say.
MAX_MESSAGE_BYTES = (1 << 31) - 1

_MODEL_SPEC = PredictRequest.MODEL_SPEC_FIELD_NUMBER
_INPUTS = PredictRequest.INPUTS_FIELD_NUMBER
_OUTPUT_FILTER = PredictRequest.OUTPUT_FILTER_FIELD_NUMBER


class Request(NamedTuple):
    """One unary call, ready to be sent."""

    method: str
    """The path of the method, such as `/tensorflow.serving.PredictionService/Predict`."""
    body: bytes


class Servable(NamedTuple):
    """Which model is asked, and which version of it: a number, a label, or the server's choice."""

    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version is not None else ""
        return f'model "{self.model}"' + (f' label "{self.label}"' if self.label else version)


def servable(model: str, version: int | None = None, label: str | None = None) -> Servable:
    """Return which servable is meant.

    Raises:
        ValueError: The name is empty, or both a version and a label are given.
    """
    if not model:
        raise ValueError("model: expected a name, got an empty string")
    if version is not None and label is not None:
        raise ValueError(f'expected a version or a label, got both: {version} and "{label}"')
    return Servable(model, version, label)


def predict(
    asked: Servable,
    inputs: Mapping[str, NDArray[Any]],
    *,
    signature: str = "",
    outputs: Sequence[str] = (),
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> Request:
    """Return a Predict call with `inputs` as they are; their bytes are copied once.

    An empty `signature` leaves the choice to the server, and empty `outputs` ask for all.

    Raises:
        InvalidInput: An array that TensorFlow has no dtype for, or not only strings in one.
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    pieces = wire.bytes_field(_MODEL_SPEC, [_spec(asked, signature).SerializeToString()])
    for name, array in inputs.items():
        try:
            pieces += wire.map_entry(_INPUTS, name, tensors.to_wire(array))
        except tensors.TensorError as error:
            raise InvalidInput(f'input "{name}": {error}') from None
    for name in outputs:
        pieces += wire.bytes_field(_OUTPUT_FILTER, [name.encode()])
    size = wire.size(pieces)
    if size > max_bytes:
        raise MessageTooLarge(
            f"request to {asked}: expected at most {max_bytes} bytes, got {size}; "
            "send smaller batches, or set max_message_bytes"
        )
    return Request(PREDICT, wire.join(pieces))


def metadata(asked: Servable, fields: Sequence[str]) -> Request:
    """Return a GetModelMetadata call for these metadata fields."""
    message = GetModelMetadataRequest(model_spec=_spec(asked), metadata_field=fields)
    return Request(GET_MODEL_METADATA, message.SerializeToString())


def status(asked: Servable) -> Request:
    """Return a GetModelStatus call."""
    message = GetModelStatusRequest(model_spec=_spec(asked))
    return Request(GET_MODEL_STATUS, message.SerializeToString())


def _spec(asked: Servable, signature: str = "") -> ModelSpec:
    version = None if asked.version is None else Int64Value(value=asked.version)
    return ModelSpec(
        name=asked.model, version=version, version_label=asked.label, signature_name=signature
    )
