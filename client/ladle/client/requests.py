"""The requests: what is asked of a server, as the bytes that are sent.

Pure functions: no I/O, no grpc, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, TypeAlias

from numpy.typing import NDArray

from ladle.client.errors import InvalidInput, MessageTooLarge
from ladle.protos import health_pb, ladle_pb, serving_pb, tensors, wire
from ladle.protos.google_pb import Int64Value
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    PredictRequest,
)

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
REGRESS = "/tensorflow.serving.PredictionService/Regress"
MULTI_INFERENCE = "/tensorflow.serving.PredictionService/MultiInference"
GET_MODEL_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD_CONFIG = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
LIST_MODELS = "/ladle.v1.ModelRepository/ListModels"
CHECK_HEALTH = "/grpc.health.v1.Health/Check"
PREDICT_STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
PREDICT_IN_CHUNKS = "/ladle.v1.StreamingPrediction/PredictInChunks"
METHODS = (
    PREDICT,
    CLASSIFY,
    REGRESS,
    MULTI_INFERENCE,
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    RELOAD_CONFIG,
    LIST_MODELS,
    CHECK_HEALTH,
)
"""Those with one request and one answer."""

Task: TypeAlias = "Literal['classify', 'regress']"
"""What MultiInference runs a signature as."""

ModelConfigs: TypeAlias = "Mapping[str, str | PathLike[str]] | serving_pb.ModelServerConfig"
"""The models that a server should serve: the base path of each by its name, or TensorFlow Serving's
own message, which can also tell version policies and labels."""

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
        raise _too_large(asked, size, max_bytes)
    return Request(PREDICT, wire.join(pieces))


def classify(asked: Servable, signature: str, rows: serving_pb.Input, max_bytes: int) -> Request:
    """Return a Classify call.

    Raises:
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    message = serving_pb.ClassificationRequest(model_spec=_spec(asked, signature), input=rows)
    return _bounded(CLASSIFY, message.SerializeToString(), asked, max_bytes)


def regress(asked: Servable, signature: str, rows: serving_pb.Input, max_bytes: int) -> Request:
    """Return a Regress call.

    Raises:
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    message = serving_pb.RegressionRequest(model_spec=_spec(asked, signature), input=rows)
    return _bounded(REGRESS, message.SerializeToString(), asked, max_bytes)


def multi_inference(
    asked: Servable, tasks: Mapping[str, Task], rows: serving_pb.Input, max_bytes: int
) -> Request:
    """Return a MultiInference call with a task for each signature of `tasks`, in its order.

    Raises:
        MessageTooLarge: The request takes more than `max_bytes`.
        ValueError: There are no tasks, or one is neither "classify" nor "regress".
    """
    if not tasks:
        raise ValueError("tasks: expected at least one signature, got none")
    message = serving_pb.MultiInferenceRequest(input=rows)
    for signature, task in tasks.items():
        if task not in ("classify", "regress"):
            raise ValueError(
                f'tasks: "{signature}": expected "classify" or "regress", got "{task}"'
            )
        message.tasks.add(
            model_spec=_spec(asked, signature), method_name=f"tensorflow/serving/{task}"
        )
    return _bounded(MULTI_INFERENCE, message.SerializeToString(), asked, max_bytes)


def reload(configs: ModelConfigs) -> Request:
    """Return a call that replaces the list of models with `configs`.

    Raises:
        ValueError: A model has no name or no base path.
    """
    if isinstance(configs, Mapping):
        config = serving_pb.ModelServerConfig()
        config.model_config_list.SetInParent()  # an empty list is a list too: it unloads all
        for name, base_path in configs.items():
            if not name or not fspath(base_path):
                raise ValueError(f'expected a name and a base path, got "{name}": "{base_path}"')
            config.model_config_list.config.add(
                name=name, base_path=fspath(base_path), model_platform="tensorflow"
            )
    else:
        config = configs
    message = serving_pb.ReloadConfigRequest(config=config)
    return Request(RELOAD_CONFIG, message.SerializeToString())


def models(name: str) -> Request:
    """Return a ListModels call, for one model or, if `name` is empty, for all."""
    message = ladle_pb.ListModelsRequest(name=name)
    return Request(LIST_MODELS, message.SerializeToString())


def health(service: str) -> Request:
    """Return a health check of a service, or of the server as a whole if `service` is empty."""
    message = health_pb.HealthCheckRequest(service=service)
    return Request(CHECK_HEALTH, message.SerializeToString())


def metadata(asked: Servable, fields: Sequence[str]) -> Request:
    """Return a GetModelMetadata call for these metadata fields."""
    message = GetModelMetadataRequest(model_spec=_spec(asked), metadata_field=fields)
    return Request(GET_MODEL_METADATA, message.SerializeToString())


def status(asked: Servable) -> Request:
    """Return a GetModelStatus call."""
    message = GetModelStatusRequest(model_spec=_spec(asked))
    return Request(GET_MODEL_STATUS, message.SerializeToString())


def _bounded(method: str, body: bytes, asked: Servable, max_bytes: int) -> Request:
    if len(body) > max_bytes:
        raise _too_large(asked, len(body), max_bytes)
    return Request(method, body)


def _too_large(asked: Servable, size: int, max_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"request to {asked}: expected at most {max_bytes} bytes, got {size}; "
        "send smaller batches, or set max_message_bytes"
    )


def _spec(asked: Servable, signature: str = "") -> ModelSpec:
    version = None if asked.version is None else Int64Value(value=asked.version)
    return ModelSpec(
        name=asked.model, version=version, version_label=asked.label, signature_name=signature
    )
