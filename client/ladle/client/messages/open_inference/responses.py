"""The answers of a server that speaks the Open Inference Protocol ("V2"), read from bytes.

Pure functions: no I/O, safe in any thread. An answer that can't be read raises InvalidAnswer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from google.protobuf.message import Message

from ladle.client.errors import InvalidAnswer
from ladle.client.messages import responses
from ladle.client.messages.open_inference.requests import version_text
from ladle.client.messages.open_inference.tensors import read_tensor
from ladle.client.messages.requests import Servable
from ladle.client.messages.responses import Predicted
from ladle.client.models import (
    DEFAULT_SIGNATURE,
    ModelMetadata,
    ServedModel,
    Signature,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from ladle.protos import inference_pb
from ladle.protos.datatypes import BY_NAME

M = TypeVar("M", bound=Message)

# The number of no DataType: such a tensor is sent as it is, and the server checks it.
_UNKNOWN_DATA_TYPE = 0
_MOST_DIGITS = 18

_STATES = {
    "READY": VersionState.AVAILABLE,
    "LOADING": VersionState.LOADING,
    "UNLOADING": VersionState.UNLOADING,
    "UNAVAILABLE": VersionState.END,
}


def infer(answer: bytes, target: Servable) -> Predicted:
    """Read the answer to a ModelInfer call.

    Raises:
        InvalidAnswer: It is no ModelInferResponse, one of its tensors can't be read, or another
            version answered than was asked for.
    """
    what = f"ModelInfer of {target}"
    response = _parse(inference_pb.ModelInferResponse, answer, what)
    _check_version(target, response.model_version, what)
    raw = list(response.raw_output_contents)
    if raw and len(raw) != len(response.outputs):
        raise InvalidAnswer(
            f"{what}: expected raw contents for {len(response.outputs)} outputs, got {len(raw)}"
        )
    outputs = {}
    for index, output in enumerate(response.outputs):
        whose = f'{what}: output "{output.name}"'
        if output.name in outputs:
            raise InvalidAnswer(f"{whose}: the server answered it twice")
        outputs[output.name] = read_tensor(output, raw[index] if raw else b"", whose)
    return Predicted(outputs, _number(response.model_version), "")


def metadata(answer: bytes, target: Servable) -> ModelMetadata:
    """Read the answer to a ModelMetadata call.

    The protocol has no signatures: the model's inputs and outputs are `serving_default`. It does
    not say which inputs may be left out. Where the server declares no inputs there is no signature.
    The version is the highest one that can be had, which answers where none is named; None where a
    version is no number.

    Raises:
        InvalidAnswer: It is no ModelMetadataResponse.
    """
    what = f"ModelMetadata of {target}"
    response = _parse(inference_pb.ModelMetadataResponse, answer, what)
    numbers = [_number(version) for version in response.versions]
    known = [number for number in numbers if number is not None]
    version = max(known) if known and len(known) == len(numbers) else None
    signature = Signature(
        _specs(response.inputs), _specs(response.outputs), is_optional_known=False
    )
    return ModelMetadata(
        model=target.model,
        version=version if target.version is None else target.version,
        signatures={DEFAULT_SIGNATURE: signature} if signature.inputs else {},
    )


def model_ready(answer: bytes, target: Servable) -> bool:
    """Read the answer to a ModelReady call.

    Raises:
        InvalidAnswer: It is no ModelReadyResponse.
    """
    return _parse(inference_pb.ModelReadyResponse, answer, f"ModelReady of {target}").ready


def server_ready(answer: bytes) -> bool:
    """Read the answer to a ServerReady call.

    Raises:
        InvalidAnswer: It is no ServerReadyResponse.
    """
    return _parse(inference_pb.ServerReadyResponse, answer, "ServerReady").ready


def index(answer: bytes) -> tuple[ServedModel, ...]:
    """Read the answer to a RepositoryIndex call; versions that are no numbers are left out.

    Raises:
        InvalidAnswer: It is no RepositoryIndexResponse.
    """
    response = _parse(inference_pb.RepositoryIndexResponse, answer, "RepositoryIndex")
    by_name: dict[str, list[inference_pb.RepositoryIndexResponse.ModelIndex]] = {}
    for entry in response.models:
        by_name.setdefault(entry.name, []).append(entry)
    return tuple(_served(name, entries) for name, entries in by_name.items())


def loaded(answer: bytes) -> None:
    """Read the answer to a RepositoryModelLoad call.

    Raises:
        InvalidAnswer: It is no RepositoryModelLoadResponse.
    """
    _parse(inference_pb.RepositoryModelLoadResponse, answer, "RepositoryModelLoad")


def unloaded(answer: bytes) -> None:
    """Read the answer to a RepositoryModelUnload call.

    Raises:
        InvalidAnswer: It is no RepositoryModelUnloadResponse.
    """
    _parse(inference_pb.RepositoryModelUnloadResponse, answer, "RepositoryModelUnload")


def _parse(message: type[M], answer: bytes, what: str) -> M:
    expected = "a server of the Open Inference Protocol"
    return responses.parse(message.FromString, answer, what, expected=expected)


def _check_version(target: Servable, answered: str, what: str) -> None:
    """Check that the version which was asked for has answered: some servers don't look at it."""
    asked = version_text(target)
    if asked and not answered:
        raise InvalidAnswer(
            f"{what}: the server doesn't say which version answered; "
            "it may have no versions, so leave the version out"
        )
    if target.version is not None and _number(answered) != target.version:
        raise InvalidAnswer(f'{what}: expected an answer of that version, got one of "{answered}"')


def _number(version: str) -> int | None:
    is_number = version.isascii() and version.isdigit() and len(version) <= _MOST_DIGITS
    return int(version) if is_number else None


def _specs(
    tensors: Iterable[inference_pb.ModelMetadataResponse.TensorMetadata],
) -> Mapping[str, TensorSpec]:
    specs = {}
    for tensor in tensors:
        datatype = BY_NAME.get(tensor.datatype)
        data_type = _UNKNOWN_DATA_TYPE if datatype is None else datatype.data_type
        specs[tensor.name] = TensorSpec(data_type, tuple(max(size, -1) for size in tensor.shape))
    return specs


def _served(
    name: str, entries: list[inference_pb.RepositoryIndexResponse.ModelIndex]
) -> ServedModel:
    versions = []
    for entry in entries:
        number = _number(entry.version)
        if number is not None:
            versions.append(VersionStatus(number, _state(entry), error_message=entry.reason))
    return ServedModel(
        name=name,
        base_path="",
        is_available=any(_state(entry) is VersionState.AVAILABLE for entry in entries),
        problem="; ".join(
            entry.reason
            for entry in entries
            if entry.reason and _state(entry) is not VersionState.AVAILABLE
        ),
        versions=tuple(sorted(versions, key=lambda status: status.version)),
        signatures={},
        labels={},
    )


def _state(entry: inference_pb.RepositoryIndexResponse.ModelIndex) -> VersionState:
    """Return the state of a version; MLServer writes `State.READY` where others write `READY`."""
    return _STATES.get(entry.state.rpartition(".")[2], VersionState.UNKNOWN)
