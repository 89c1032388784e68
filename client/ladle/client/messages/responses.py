"""The answers of a server, read from bytes.

Pure functions: no I/O, safe in any thread. An answer that can't be read raises InvalidAnswer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from ladle.client.errors import InvalidAnswer, from_status
from ladle.client.messages.requests import Servable
from ladle.client.models import (
    ModelMetadata,
    ServedModel,
    Signature,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from ladle.client.prediction import Classification, Regression, Scored
from ladle.protos import google_pb, health_pb, ladle_pb, serving_pb, tensorflow_pb, tensors
from ladle.protos.model_card import CARD_METADATA_FIELD, ModelCard

M = TypeVar("M", bound=Message)

SIGNATURES_METADATA_FIELD = "signature_def"
# TensorFlow 2 exports it beside the signatures. It restores the model, and no request can call it.
_INIT_SIGNATURE = "__saved_model_init_op"


class Predicted(NamedTuple):
    """The answer to a Predict call."""

    outputs: Mapping[str, NDArray[Any]]
    """Read-only where they are views of the answer's bytes."""
    version: int | None
    """The version that answered; None if the server doesn't say."""
    signature: str
    """The signature that ran; empty if the server doesn't say."""


def predict(answer: bytes, target: Servable) -> Predicted:
    """Read the answer to a Predict call.

    Raises:
        InvalidAnswer: It is no PredictResponse, or one of its tensors can't be read.
    """
    what = f"Predict of {target}"
    return _predicted(parse(serving_pb.PredictResponse.FromString, answer, what), what)


class Chunk(NamedTuple):
    """One message of the answer to a PredictInChunks call: some of the rows."""

    predicted: Predicted
    first_row: int
    total_rows: int
    """0 if the outputs share no first dimension; then there is one chunk."""


def chunk(answer: bytes, target: Servable) -> Chunk:
    """Read one message of the answer to a PredictInChunks call.

    Raises:
        InvalidAnswer: It is no PredictChunk, or one of its tensors can't be read.
    """
    what = f"PredictInChunks of {target}"
    read = parse(ladle_pb.PredictChunk.FromString, answer, what)
    return Chunk(_predicted(read.response, what), read.first_row, read.total_rows)


def classify(answer: bytes, target: Servable, signature: str, rows: int) -> Classification:
    """Read the answer to a Classify call with `rows` examples.

    Raises:
        InvalidAnswer: It is no ClassificationResponse, or of another number of examples.
    """
    what = f"Classify of {target}"
    response = parse(serving_pb.ClassificationResponse.FromString, answer, what)
    return _classification(response.result, response.model_spec, target, signature, rows, what)


def regress(answer: bytes, target: Servable, signature: str, rows: int) -> Regression:
    """Read the answer to a Regress call with `rows` examples.

    Raises:
        InvalidAnswer: It is no RegressionResponse, or of another number of examples.
    """
    what = f"Regress of {target}"
    response = parse(serving_pb.RegressionResponse.FromString, answer, what)
    return _regression(response.result, response.model_spec, target, signature, rows, what)


def multi_inference(
    answer: bytes, target: Servable, signatures: Sequence[str], rows: int
) -> dict[str, Classification | Regression]:
    """Read the answer to a MultiInference call with `rows` examples, by signature.

    Raises:
        InvalidAnswer: It is no MultiInferenceResponse, or of other tasks or examples.
    """
    what = f"MultiInference of {target}"
    response = parse(serving_pb.MultiInferenceResponse.FromString, answer, what)
    if len(response.results) != len(signatures):
        raise InvalidAnswer(
            f"{what}: expected {len(signatures)} results, got {len(response.results)}"
        )
    read: dict[str, Classification | Regression] = {}
    for name, result in zip(signatures, response.results, strict=True):
        if result.HasField("classification_result"):
            classified = result.classification_result
            read[name] = _classification(classified, result.model_spec, target, name, rows, what)
        else:
            regressed = result.regression_result
            read[name] = _regression(regressed, result.model_spec, target, name, rows, what)
    return read


def reload(answer: bytes) -> None:
    """Read the answer to HandleReloadConfigRequest.

    Raises:
        LadleError: The server couldn't do all of it; the message says why.
        InvalidAnswer: It is no ReloadConfigResponse.
    """
    what = "HandleReloadConfigRequest"
    status = parse(serving_pb.ReloadConfigResponse.FromString, answer, what).status
    if status.error_code:
        raise from_status(code_of(status.error_code), status.error_message, what)


def models(answer: bytes) -> tuple[ServedModel, ...]:
    """Read the answer to a ListModels call.

    Raises:
        InvalidAnswer: It is no ListModelsResponse.
    """
    response = parse(ladle_pb.ListModelsResponse.FromString, answer, "ListModels")
    return tuple(_served(model) for model in response.model)


def model(answer: bytes, what: str) -> ServedModel:
    """Read the answer to a LoadModel or RescanModel call.

    Raises:
        InvalidAnswer: It is neither.
    """
    if what == "LoadModel":
        return _served(parse(ladle_pb.LoadModelResponse.FromString, answer, what).model)
    return _served(parse(ladle_pb.RescanModelResponse.FromString, answer, what).model)


def unload(answer: bytes) -> None:
    """Read the answer to an UnloadModel call.

    Raises:
        InvalidAnswer: It is no UnloadModelResponse.
    """
    parse(ladle_pb.UnloadModelResponse.FromString, answer, "UnloadModel")


def health(answer: bytes) -> bool:
    """Read the answer to a health check: whether the service takes calls.

    Raises:
        InvalidAnswer: It is no HealthCheckResponse.
    """
    response = parse(health_pb.HealthCheckResponse.FromString, answer, "Check of health")
    return response.status == health_pb.HealthCheckResponse.SERVING


def metadata(answer: bytes, target: Servable) -> ModelMetadata:
    """Read the answer to a GetModelMetadata call.

    A card that can't be read sets `card_error` and raises nothing, because only raw pixels need it.

    Raises:
        InvalidAnswer: It is no GetModelMetadataResponse, or holds no signatures where it says so.
    """
    what = f"GetModelMetadata of {target}"
    response = parse(serving_pb.GetModelMetadataResponse.FromString, answer, what)
    signatures = {}
    if SIGNATURES_METADATA_FIELD in response.metadata:
        packed = response.metadata[SIGNATURES_METADATA_FIELD]
        defined = _unpack(serving_pb.SignatureDefMap, packed, what)
        signatures = _signatures(defined.signature_def)
    card, card_error = None, ""
    if CARD_METADATA_FIELD in response.metadata:
        packed = response.metadata[CARD_METADATA_FIELD]
        try:
            card = ModelCard.from_json(_unpack(ladle_pb.ModelCard, packed, what).json)
        except ValueError as error:
            card_error = str(error)
    return ModelMetadata(
        model=target.model,
        version=_version(response.model_spec),
        signatures=signatures,
        card=card,
        card_error=card_error,
    )


def status(answer: bytes, target: Servable) -> tuple[VersionStatus, ...]:
    """Read the answer to a GetModelStatus call: the versions in ascending order.

    Raises:
        InvalidAnswer: It is no GetModelStatusResponse.
    """
    what = f"GetModelStatus of {target}"
    response = parse(serving_pb.GetModelStatusResponse.FromString, answer, what)
    return _versions(response.model_version_status)


def code_of(number: int) -> grpc.StatusCode:
    """Return the status code of this number; UNKNOWN where there is none."""
    return next(
        (code for code in grpc.StatusCode if code.value[0] == number), grpc.StatusCode.UNKNOWN
    )


def _served(model: ladle_pb.Model) -> ServedModel:
    return ServedModel(
        name=model.config.name,
        base_path=model.config.base_path,
        is_available=model.available,
        problem=model.problem,
        versions=_versions(version.status for version in model.version),
        signatures={
            version.status.version: _signatures(version.signature)
            for version in model.version
            if version.signature
        },
        labels=dict(model.config.version_labels),
        is_unloaded=model.unloaded,
    )


def _predicted(response: serving_pb.PredictResponse, what: str) -> Predicted:
    outputs = {}
    for name, tensor in response.outputs.items():
        try:
            outputs[name] = tensors.to_array(tensor)
        except tensors.TensorError as error:
            raise InvalidAnswer(f'{what}: output "{name}": {error}') from error
    return Predicted(outputs, _version(response.model_spec), response.model_spec.signature_name)


def _classification(
    result: serving_pb.ClassificationResult,
    spec: serving_pb.ModelSpec,
    target: Servable,
    signature: str,
    rows: int,
    what: str,
) -> Classification:
    _check_rows(len(result.classifications), rows, what)
    return Classification(
        classes=tuple(
            tuple(Scored(c.label, c.score, index) for index, c in enumerate(row.classes))
            for row in result.classifications
        ),
        model=target.model,
        version=_version(spec),
        signature=spec.signature_name or signature,
    )


def _regression(
    result: serving_pb.RegressionResult,
    spec: serving_pb.ModelSpec,
    target: Servable,
    signature: str,
    rows: int,
    what: str,
) -> Regression:
    _check_rows(len(result.regressions), rows, what)
    return Regression(
        values=np.array([regression.value for regression in result.regressions], np.float32),
        model=target.model,
        version=_version(spec),
        signature=spec.signature_name or signature,
    )


def _check_rows(actual: int, expected: int, what: str) -> None:
    if actual != expected:
        raise InvalidAnswer(f"{what}: expected results of {expected} examples, got {actual}")


def parse(
    read: Callable[[bytes], M],
    answer: bytes,
    what: str,
    *,
    expected: str = "a TensorFlow Serving or ladle server",
) -> M:
    """Return the message that `read` makes of an answer; `expected` is who would send such one.

    Raises:
        InvalidAnswer: The bytes are no such message.
    """
    try:
        return read(answer)
    except DecodeError as error:
        raise InvalidAnswer(
            f"{what}: the server answered {len(answer)} bytes that are not the message expected; "
            f"is there {expected} at this address?"
        ) from error


def _unpack(message: type[M], packed: google_pb.Any, what: str) -> M:
    expected, actual = message.DESCRIPTOR.full_name, packed.type_url.rpartition("/")[2]
    if actual != expected:
        raise InvalidAnswer(f'{what}: expected an Any holding {expected}, got "{actual}"')
    return parse(message.FromString, packed.value, what)


def _versions(statuses: Iterable[serving_pb.ModelVersionStatus]) -> tuple[VersionStatus, ...]:
    return tuple(
        VersionStatus(
            version=status.version,
            state=_state(status.state),
            error_code=status.status.error_code,
            error_message=status.status.error_message,
        )
        for status in sorted(statuses, key=lambda status: status.version)
    )


def _signatures(defined: Mapping[str, tensorflow_pb.SignatureDef]) -> dict[str, Signature]:
    return {
        name: _signature(signature)
        for name, signature in sorted(defined.items())
        if name != _INIT_SIGNATURE
    }


def _signature(signature: tensorflow_pb.SignatureDef) -> Signature:
    return Signature(
        inputs=_specs(signature.inputs),
        outputs=_specs(signature.outputs),
        method_name=signature.method_name,
        optional=frozenset(signature.defaults),
    )


def _specs(infos: Mapping[str, tensorflow_pb.TensorInfo]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(info.dtype, tensors.shape_of(info.tensor_shape))
        for name, info in sorted(infos.items())
    }


def _version(spec: serving_pb.ModelSpec) -> int | None:
    return spec.version.value if spec.HasField("version") else None


def _state(number: int) -> VersionState:
    try:
        return VersionState(number)
    except ValueError:
        return VersionState.UNKNOWN
