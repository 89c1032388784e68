"""The requests of the client, encoded as bytes.

Pure functions: no I/O, no grpc, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
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
LOAD_MODEL = "/ladle.v1.ModelRepository/LoadModel"
UNLOAD_MODEL = "/ladle.v1.ModelRepository/UnloadModel"
RESCAN_MODEL = "/ladle.v1.ModelRepository/RescanModel"
CHECK_HEALTH = "/grpc.health.v1.Health/Check"
PREDICT_STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
PREDICT_IN_CHUNKS = "/ladle.v1.StreamingPrediction/PredictInChunks"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
"""Predict's counterpart in the Open Inference Protocol."""
PREDICTIONS = frozenset({PREDICT, MODEL_INFER})
"""The methods whose requests may share a stream."""
METHODS = (
    PREDICT,
    CLASSIFY,
    REGRESS,
    MULTI_INFERENCE,
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    RELOAD_CONFIG,
    LIST_MODELS,
    LOAD_MODEL,
    UNLOAD_MODEL,
    RESCAN_MODEL,
    CHECK_HEALTH,
)
"""TensorFlow Serving's and ladle's methods with one request and one answer."""

Task: TypeAlias = "Literal['classify', 'regress']"
"""What MultiInference runs a signature as."""

ModelConfigs: TypeAlias = "Mapping[str, str | PathLike[str]] | serving_pb.ModelServerConfig"
"""The models that a server should serve: base paths by model name, or TensorFlow Serving's own
message, which also holds version policies and labels."""

# The limit of a protobuf message, and of gRPC's integer options.
MAX_MESSAGE_BYTES = (1 << 31) - 1

_MODEL_SPEC = PredictRequest.MODEL_SPEC_FIELD_NUMBER
_INPUTS = PredictRequest.INPUTS_FIELD_NUMBER
_OUTPUT_FILTER = PredictRequest.OUTPUT_FILTER_FIELD_NUMBER


class EncodedRequest(NamedTuple):
    """One unary call, ready to be sent."""

    method: str
    """The path of the method, such as `/tensorflow.serving.PredictionService/Predict`."""
    body: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    """What the caller sends beside it."""


class Servable(NamedTuple):
    """A model and its version: a number, a label, or the server's choice."""

    model: str
    version: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        version = f" version {self.version}" if self.version is not None else ""
        return f'model "{self.model}"' + (f' label "{self.label}"' if self.label else version)


def servable(model: str, version: int | None = None, label: str | None = None) -> Servable:
    """Return the checked servable.

    Raises:
        TypeError: The name or the label is no text, or the version no number.
        ValueError: The name is empty, the version is out of range, or both a version and a label
            are given.
    """
    _check_types(model, version, label)
    if not model:
        raise ValueError("model: expected a name, got an empty string")
    if version is not None and not 0 <= version < 1 << 63:
        raise ValueError(f"version: expected a number from 0 to 2**63 - 1, got {version}")
    if version is not None and label is not None:
        raise ValueError(f'expected a version or a label, got both: {version} and "{label}"')
    return Servable(model, None if version is None else int(version), label)


def _check_encodes(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{what}: expected what UTF-8 can say, got half of a surrogate pair in {text!r:.60}"
        ) from None


def _check_types(model: object, version: object, label: object) -> None:
    if not isinstance(model, str):
        raise TypeError(f"model: expected a name, got {type(model).__name__}")
    for what, text in (("model", model), ("label", label)):
        if isinstance(text, str):
            _check_encodes(what, text)
    if version is not None and (isinstance(version, bool) or not isinstance(version, Integral)):
        raise TypeError(f"version: expected a number, got {version!r}; a label is label=...")
    if label is not None and not isinstance(label, str):
        raise TypeError(f"label: expected text, got {type(label).__name__}")


def predict(
    target: Servable,
    inputs: Mapping[str, NDArray[Any]],
    *,
    signature: str = "",
    outputs: Sequence[str] = (),
    max_bytes: int = MAX_MESSAGE_BYTES,
) -> EncodedRequest:
    """Return a Predict request with `inputs` unchanged; their bytes are copied once.

    An empty `signature` means the server's default, empty `outputs` mean all outputs.

    Raises:
        InvalidInput: An array that TensorFlow has no dtype for, or not only strings in one.
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    pieces = wire.bytes_field(_MODEL_SPEC, [_spec(target, signature).SerializeToString()])
    for name, array in inputs.items():
        try:
            pieces += wire.map_entry(_INPUTS, name, tensors.to_wire(array))
        except tensors.TensorError as error:
            raise InvalidInput(f'input "{name}": {error}') from None
    for name in outputs:
        pieces += wire.bytes_field(_OUTPUT_FILTER, [name.encode()])
    size = wire.size(pieces)
    if size > max_bytes:
        raise too_large(target, size, max_bytes)
    return EncodedRequest(PREDICT, wire.join(pieces))


def classify(
    target: Servable, signature: str, rows: serving_pb.Input, max_bytes: int
) -> EncodedRequest:
    """Return a Classify request.

    Raises:
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    message = serving_pb.ClassificationRequest(model_spec=_spec(target, signature), input=rows)
    return _bounded(CLASSIFY, message.SerializeToString(), target, max_bytes)


def regress(
    target: Servable, signature: str, rows: serving_pb.Input, max_bytes: int
) -> EncodedRequest:
    """Return a Regress request.

    Raises:
        MessageTooLarge: The request takes more than `max_bytes`.
    """
    message = serving_pb.RegressionRequest(model_spec=_spec(target, signature), input=rows)
    return _bounded(REGRESS, message.SerializeToString(), target, max_bytes)


def multi_inference(
    target: Servable, tasks: Mapping[str, Task], rows: serving_pb.Input, max_bytes: int
) -> EncodedRequest:
    """Return a MultiInference request with a task for each signature of `tasks`, in its order.

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
            model_spec=_spec(target, signature), method_name=f"tensorflow/serving/{task}"
        )
    return _bounded(MULTI_INFERENCE, message.SerializeToString(), target, max_bytes)


def reload(configs: ModelConfigs) -> EncodedRequest:
    """Return a request that replaces the list of models with `configs`.

    Raises:
        ValueError: A model has no name or no base path.
    """
    if isinstance(configs, Mapping):
        config = serving_pb.ModelServerConfig()
        config.model_config_list.SetInParent()  # an empty list is a list too: it unloads all
        for name, base_path in configs.items():
            config.model_config_list.config.append(_config(name, base_path))
    else:
        config = configs
    message = serving_pb.ReloadConfigRequest(config=config)
    return EncodedRequest(RELOAD_CONFIG, message.SerializeToString())


def models(name: str, limit: int = 0) -> EncodedRequest:
    """Return a ListModels request, for one model or, if `name` is empty, for all.

    With a `limit`, servers that know it list so many at most, the first by name.
    """
    message = ladle_pb.ListModelsRequest(name=name, limit=limit)
    return EncodedRequest(LIST_MODELS, message.SerializeToString())


def load(name: str, base_path: str | PathLike[str]) -> EncodedRequest:
    """Return a LoadModel request.

    Raises:
        ValueError: The model has no name or no base path.
    """
    config = _config(name, base_path)
    message = ladle_pb.LoadModelRequest(config=config)
    return EncodedRequest(LOAD_MODEL, message.SerializeToString())


def unload(name: str) -> EncodedRequest:
    """Return an UnloadModel request."""
    message = ladle_pb.UnloadModelRequest(name=servable(name).model)
    return EncodedRequest(UNLOAD_MODEL, message.SerializeToString())


def rescan(name: str) -> EncodedRequest:
    """Return a RescanModel request."""
    message = ladle_pb.RescanModelRequest(name=servable(name).model)
    return EncodedRequest(RESCAN_MODEL, message.SerializeToString())


def health(service: str) -> EncodedRequest:
    """Return a health check of a service, or of the server as a whole if `service` is empty."""
    message = health_pb.HealthCheckRequest(service=service)
    return EncodedRequest(CHECK_HEALTH, message.SerializeToString())


def metadata(target: Servable, fields: Sequence[str]) -> EncodedRequest:
    """Return a GetModelMetadata request for these metadata fields."""
    message = GetModelMetadataRequest(model_spec=_spec(target), metadata_field=fields)
    return EncodedRequest(GET_MODEL_METADATA, message.SerializeToString())


def status(target: Servable) -> EncodedRequest:
    """Return a GetModelStatus request."""
    message = GetModelStatusRequest(model_spec=_spec(target))
    return EncodedRequest(GET_MODEL_STATUS, message.SerializeToString())


def _config(name: str, base_path: str | PathLike[str]) -> serving_pb.ModelConfig:
    if not name or not fspath(base_path):
        raise ValueError(f'expected a name and a base path, got "{name}": "{base_path}"')
    return serving_pb.ModelConfig(
        name=name, base_path=fspath(base_path), model_platform="tensorflow"
    )


def _bounded(method: str, body: bytes, target: Servable, max_bytes: int) -> EncodedRequest:
    if len(body) > max_bytes:
        raise too_large(target, len(body), max_bytes)
    return EncodedRequest(method, body)


def too_large(target: Servable, size: int, max_bytes: int) -> MessageTooLarge:
    """Return the error of a request of `size` bytes."""
    return MessageTooLarge(
        f"request to {target}: expected at most {max_bytes} bytes, got {size}; "
        "send fewer rows in one call, such as with stream() or predict_chunks(), or raise "
        "max_message_bytes"
    )


def _spec(target: Servable, signature: str = "") -> ModelSpec:
    version = None if target.version is None else Int64Value(value=target.version)
    return ModelSpec(
        name=target.model, version=version, version_label=target.label, signature_name=signature
    )
