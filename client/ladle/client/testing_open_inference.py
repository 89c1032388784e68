"""What `FunctionServer` answers to requests of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from google.protobuf.message import Message
from numpy.typing import DTypeLike, NDArray

from ladle.client.errors import InvalidAnswer, InvalidInput, NotFound
from ladle.client.messages import requests as paths
from ladle.client.messages.open_inference import requests
from ladle.client.messages.open_inference.tensors import read_tensor
from ladle.protos import dtypes, inference_pb, tensors
from ladle.protos.datatypes import BY_NUMBER, to_raw

Arrays = dict[str, NDArray[Any]]
Declared = Mapping[str, tuple[DTypeLike, tuple[int, ...]]]


class Served(Protocol):
    """A `FunctionModel`, as far as it is read here."""

    @property
    def inputs(self) -> Declared:
        """The dtype and shape of each input."""

    @property
    def outputs(self) -> Declared:
        """The dtype and shape of each output."""

    @property
    def version(self) -> int:
        """The number of the version."""

    @property
    def version_labels(self) -> Collection[str]:
        """The labels that name the version."""


S = TypeVar("S", bound=Served)


def answer(
    method: str, body: bytes, models: Mapping[str, S], run: Callable[[S, Arrays], Arrays]
) -> Message | None:
    """Return the answer to a request; None for a method that is not there.

    Raises:
        LadleError: The request is wrong, or the model's function raised it.
    """
    match method:
        case paths.MODEL_INFER:
            return _infer(inference_pb.ModelInferRequest.FromString(body), models, run)
        case requests.MODEL_METADATA:
            asked = inference_pb.ModelMetadataRequest.FromString(body)
            return _metadata(asked.name, _find(models, asked.name, asked.version))
        case requests.MODEL_READY:
            about = inference_pb.ModelReadyRequest.FromString(body)
            _find(models, about.name, about.version)
            return inference_pb.ModelReadyResponse(ready=True)
        case requests.SERVER_READY:
            return inference_pb.ServerReadyResponse(ready=True)
    return None


def _infer(
    request: inference_pb.ModelInferRequest,
    models: Mapping[str, S],
    run: Callable[[S, Arrays], Arrays],
) -> Message:
    model = _find(models, request.model_name, request.model_version)
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"expected {len(request.inputs)} raw contents, got {len(raw)}")
    try:
        given = {
            tensor.name: read_tensor(tensor, raw[index] if raw else b"", f'input "{tensor.name}"')
            for index, tensor in enumerate(request.inputs)
        }
    except InvalidAnswer as error:
        raise InvalidInput(error.details) from None
    response = inference_pb.ModelInferResponse(
        model_name=request.model_name, model_version=str(model.version), id=request.id
    )
    asked = {output.name for output in request.outputs}
    for name, array in run(model, given).items():
        if asked and name not in asked:
            continue
        datatype = BY_NUMBER[dtypes.from_numpy(array.dtype)].name
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(bytes(to_raw(_with_bytes(array))))
    return response


def _with_bytes(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "OSU":
        return array
    strings = np.empty(array.size, object)
    strings[:] = tensors.as_bytes(array)
    return strings


def _metadata(name: str, model: Served) -> Message:
    response = inference_pb.ModelMetadataResponse(
        name=name, versions=[str(model.version)], platform="python_function"
    )
    for declared, listed in ((model.inputs, response.inputs), (model.outputs, response.outputs)):
        for tensor, (dtype, shape) in declared.items():
            listed.add(name=tensor, datatype=_datatype(dtype), shape=shape)
    return response


def _datatype(dtype: DTypeLike) -> str:
    return BY_NUMBER[dtypes.from_numpy(np.dtype(dtype))].name


def _find(models: Mapping[str, S], name: str, version: str) -> S:
    model = models.get(name)
    if model is None:
        raise NotFound(f"Request for unknown model: '{name}' is not found")
    if version not in ("", str(model.version), *model.version_labels):
        raise NotFound(f"Request for unknown model: '{name}' version {version} is not found")
    return model
