"""A server in this process, with models made of Python functions: for tests of what calls models.

    def brightness(inputs):
        return {"mean": inputs["images"].mean(axis=(1, 2))}

    model = FunctionModel(
        brightness,
        inputs={"images": ("float32", (-1, 28, 28))},
        outputs={"mean": ("float32", (-1,))},
    )
    with FunctionServer({"brightness": model}) as server, Client(server.address) as client:
        client.predict("brightness", images)

Real gRPC on a free port of the loopback, and no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ladle.client import testing_open_inference
from ladle.client.errors import FailedPrecondition, InvalidInput, LadleError, NotFound
from ladle.client.messages import requests
from ladle.client.messages.open_inference import requests as open_inference
from ladle.client.messages.responses import SIGNATURES_METADATA_FIELD
from ladle.client.models import DEFAULT_SIGNATURE, VersionState
from ladle.protos import dtypes, health_pb, ladle_pb, serving_pb, tensorflow_pb, tensors
from ladle.protos.model_card import CARD_METADATA_FIELD, ModelCard


@dataclass(frozen=True, kw_only=True)
class FunctionModel:
    """A version of a model that is a Python function."""

    run: Callable[[dict[str, NDArray[Any]]], Mapping[str, ArrayLike]] = field(kw_only=False)
    """Takes the inputs by name, strings as object arrays of bytes, and returns the outputs. A
    LadleError that it raises reaches the client as it is, and anything else as INTERNAL. Several
    threads may call it at once."""
    inputs: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
    """The dtype and shape of each input, -1 for any size; `object` for strings."""
    outputs: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
    version: int = 1
    version_labels: Collection[str] = ()
    """The labels that name this version in requests."""
    card: ModelCard | None = None
    """Labels and normalisation, as a ladle server would give them."""


class FunctionServer:
    """Serves models made of functions, each with one version and one signature, `serving_default`.

    Answers Predict, GetModelMetadata, GetModelStatus and health checks; to clients with
    `protocol="v2"` ModelInfer, ModelMetadata, ModelReady and ServerReady. Runs from `start()`, or
    the beginning of a `with` block, to `stop()`, or its end. `models` may be changed meanwhile.
    """

    def __init__(self, models: Mapping[str, FunctionModel], *, max_workers: int = 8) -> None:
        self.models = dict(models)
        self.address = ""
        """Where it listens, once it has started."""
        self._executor = ThreadPoolExecutor(max_workers, thread_name_prefix="function-server")
        self._server = grpc.server(
            self._executor,
            handlers=[_Handler(self._answer)],
            options=[("grpc.max_receive_message_length", requests.MAX_MESSAGE_BYTES)],
        )

    def __repr__(self) -> str:
        return f'FunctionServer("{self.address}", models: {", ".join(sorted(self.models))})'

    def start(self) -> None:
        """Listen on a free port of the loopback."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        """Cut all calls off, as a server that dies, and wait until functions have returned."""
        self._server.stop(grace=None).wait()
        self._executor.shutdown()

    def __enter__(self) -> FunctionServer:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _answer(self, method: str, body: bytes) -> Message | None:
        match method:
            case requests.PREDICT:
                return self._predict(serving_pb.PredictRequest.FromString(body))
            case requests.GET_MODEL_METADATA:
                return self._metadata(serving_pb.GetModelMetadataRequest.FromString(body))
            case requests.GET_MODEL_STATUS:
                return self._status(serving_pb.GetModelStatusRequest.FromString(body))
            case requests.CHECK_HEALTH:
                return health_pb.HealthCheckResponse(status=health_pb.HealthCheckResponse.SERVING)
        return testing_open_inference.answer(method, body, self.models, _outputs)

    def _predict(self, request: serving_pb.PredictRequest) -> Message:
        model = self._find(request.model_spec)
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if signature != DEFAULT_SIGNATURE:
            raise FailedPrecondition(
                f'signature "{signature}": expected "{DEFAULT_SIGNATURE}", the only one'
            )
        try:
            given = {name: tensors.to_array(tensor) for name, tensor in request.inputs.items()}
        except tensors.TensorError as error:
            raise InvalidInput(str(error)) from None
        response = serving_pb.PredictResponse(model_spec=_spec(request.model_spec.name, model))
        response.model_spec.signature_name = signature
        for name, array in _outputs(model, given).items():
            if not request.output_filter or name in request.output_filter:
                response.outputs[name].CopyFrom(tensors.to_proto(array))
        return response

    def _metadata(self, request: serving_pb.GetModelMetadataRequest) -> Message:
        model = self._find(request.model_spec)
        response = serving_pb.GetModelMetadataResponse(
            model_spec=_spec(request.model_spec.name, model)
        )
        for name in request.metadata_field:
            if name == SIGNATURES_METADATA_FIELD:
                signature = tensorflow_pb.SignatureDef(
                    inputs=_infos(model.inputs),
                    outputs=_infos(model.outputs),
                    method_name="tensorflow/serving/predict",
                )
                defined = serving_pb.SignatureDefMap(signature_def={DEFAULT_SIGNATURE: signature})
                response.metadata[name].Pack(defined)
            elif name != CARD_METADATA_FIELD:
                raise InvalidInput(f"Metadata field {name} is not supported")
            elif model.card is not None:
                response.metadata[name].Pack(ladle_pb.ModelCard(json=model.card.to_json()))
        return response

    def _status(self, request: serving_pb.GetModelStatusRequest) -> Message:
        model = self._find(request.model_spec)
        response = serving_pb.GetModelStatusResponse()
        response.model_version_status.add(version=model.version, state=VersionState.AVAILABLE)
        return response

    def _find(self, spec: serving_pb.ModelSpec) -> FunctionModel:
        model = self.models.get(spec.name)
        is_other = spec.HasField("version") and model and spec.version.value != model.version
        if model is None or is_other:
            version = f" version {spec.version.value}" if spec.HasField("version") else ""
            raise NotFound(f'model "{spec.name}"{version} is not served')
        if spec.version_label and spec.version_label not in model.version_labels:
            raise InvalidInput(f"Unrecognized servable version label: {spec.version_label}")
        return model


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, answer: Callable[[str, bytes], Message | None]) -> None:
        self._answer = answer

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        method = handler_call_details.method
        if method not in (*requests.METHODS, *open_inference.METHODS):
            return None

        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                response = self._answer(method, body)
            except LadleError as error:
                context.abort(error.code, error.details)
            except DecodeError:
                context.abort(grpc.StatusCode.INTERNAL, "the request is not the message expected")
            except Exception as error:
                reason = f"the function raised {type(error).__name__}: {error}"
                context.abort(grpc.StatusCode.INTERNAL, reason)
            if response is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here")
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(handle)


def _outputs(model: FunctionModel, given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a model.

    Raises:
        InvalidInput: It takes other inputs.
    """
    if given.keys() != model.inputs.keys():
        raise InvalidInput(f"expected inputs {sorted(model.inputs)}, got {sorted(given)}")
    outputs = {}
    for name, values in model.run(given).items():
        array = np.asarray(values)
        if name in model.outputs:
            array = array.astype(model.outputs[name][0], copy=False)
        outputs[name] = array
    return outputs


def _spec(name: str, model: FunctionModel) -> serving_pb.ModelSpec:
    spec = serving_pb.ModelSpec(name=name)
    spec.version.value = model.version
    return spec


def _infos(
    declared: Mapping[str, tuple[DTypeLike, tuple[int, ...]]],
) -> dict[str, tensorflow_pb.TensorInfo]:
    infos = {}
    for name, (dtype, shape) in declared.items():
        info = tensorflow_pb.TensorInfo(dtype=dtypes.from_numpy(np.dtype(dtype)))
        info.tensor_shape.SetInParent()
        for size in shape:
            info.tensor_shape.dim.add(size=size)
        infos[name] = info
    return infos
