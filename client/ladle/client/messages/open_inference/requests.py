"""The requests of the Open Inference Protocol ("V2"), encoded as bytes.

Pure functions: no I/O, no grpc, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import InvalidInput
from ladle.client.messages.requests import (
    MAX_MESSAGE_BYTES,
    MODEL_INFER,
    EncodedRequest,
    Servable,
    too_large,
)
from ladle.protos import dtypes, inference_pb, tensors, wire
from ladle.protos.datatypes import BY_NUMBER, Datatype, to_raw
from ladle.protos.inference_pb import ModelInferRequest

_SERVICE = "/inference.GRPCInferenceService"
MODEL_STREAM_INFER = f"{_SERVICE}/ModelStreamInfer"
MODEL_METADATA = f"{_SERVICE}/ModelMetadata"
MODEL_READY = f"{_SERVICE}/ModelReady"
SERVER_READY = f"{_SERVICE}/ServerReady"
REPOSITORY_INDEX = f"{_SERVICE}/RepositoryIndex"
LOAD_MODEL = f"{_SERVICE}/RepositoryModelLoad"
UNLOAD_MODEL = f"{_SERVICE}/RepositoryModelUnload"
METHODS = (
    MODEL_INFER,
    MODEL_METADATA,
    MODEL_READY,
    SERVER_READY,
    REPOSITORY_INDEX,
    LOAD_MODEL,
    UNLOAD_MODEL,
)
"""The methods with one request and one answer."""

_RAW_INPUTS = ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER


def infer(
    target: Servable,
    inputs: Mapping[str, NDArray[Any]],
    *,
    outputs: Sequence[str] = (),
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> EncodedRequest:
    """Return a ModelInfer request with `inputs` as raw bytes, which are copied once.

    Empty `outputs` mean all outputs.

    Raises:
        InvalidInput: An array that the protocol has no datatype for, or not only strings in one.
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    head = ModelInferRequest(model_name=target.model, model_version=version_text(target))
    raw: list[wire.Piece] = []
    for name, array in inputs.items():
        datatype = _datatype(name, array)
        head.inputs.add(name=name, datatype=datatype.name, shape=array.shape)
        raw += wire.bytes_field(_RAW_INPUTS, [_raw(name, array)])
    for name in outputs:
        head.outputs.add(name=name)
    pieces = [head.SerializeToString(), *raw]
    size = wire.size(pieces)
    if size > max_bytes:
        raise too_large(target, size, max_bytes)
    return EncodedRequest(MODEL_INFER, wire.join(pieces))


def metadata(target: Servable) -> EncodedRequest:
    """Return a ModelMetadata request."""
    message = inference_pb.ModelMetadataRequest(name=target.model, version=version_text(target))
    return EncodedRequest(MODEL_METADATA, message.SerializeToString())


def model_ready(target: Servable) -> EncodedRequest:
    """Return a ModelReady request."""
    message = inference_pb.ModelReadyRequest(name=target.model, version=version_text(target))
    return EncodedRequest(MODEL_READY, message.SerializeToString())


def server_ready() -> EncodedRequest:
    """Return a ServerReady request."""
    return EncodedRequest(SERVER_READY, inference_pb.ServerReadyRequest().SerializeToString())


def index() -> EncodedRequest:
    """Return a RepositoryIndex request for all versions of all models."""
    message = inference_pb.RepositoryIndexRequest()
    return EncodedRequest(REPOSITORY_INDEX, message.SerializeToString())


def load(name: str) -> EncodedRequest:
    """Return a RepositoryModelLoad request."""
    message = inference_pb.RepositoryModelLoadRequest(model_name=name)
    return EncodedRequest(LOAD_MODEL, message.SerializeToString())


def unload(name: str) -> EncodedRequest:
    """Return a RepositoryModelUnload request."""
    message = inference_pb.RepositoryModelUnloadRequest(model_name=name)
    return EncodedRequest(UNLOAD_MODEL, message.SerializeToString())


def version_text(target: Servable) -> str:
    """Return the version as requests name it: a number or other text, empty for the server's."""
    return (target.label or "") if target.version is None else str(target.version)


def _datatype(name: str, array: NDArray[Any]) -> Datatype:
    try:
        return BY_NUMBER[dtypes.from_numpy(array.dtype)]
    except (dtypes.UnsupportedDtype, KeyError):
        raise InvalidInput(
            f'input "{name}": the Open Inference Protocol has no datatype for {array.dtype}'
        ) from None


def _raw(name: str, array: NDArray[Any]) -> wire.Piece:
    if array.dtype.kind in "OSU":
        try:
            strings = np.empty(array.size, object)
            strings[:] = tensors.as_bytes(array)
        except tensors.TensorError as error:
            raise InvalidInput(f'input "{name}": {error}') from None
        return to_raw(strings)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return to_raw(array)
