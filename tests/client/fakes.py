"""A server with models made of Python functions: its behaviour, and the same behind gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from ladle.client import errors
from ladle.client.calls.effects import Flow, Pause
from ladle.client.messages import requests
from ladle.protos import dtypes, ladle_pb, tensors
from ladle.protos.health_pb import HealthCheckResponse
from ladle.protos.ladle_pb import (
    ListModelsResponse,
    PredictChunk,
    PredictStreamRequest,
    PredictStreamResponse,
    StreamStart,
)
from ladle.protos.ladle_pb import ModelCard as ModelCardMessage
from ladle.protos.model_card import CARD_METADATA_FIELD, ModelCard, Normalization
from ladle.protos.serving_pb import (
    ClassificationRequest,
    ClassificationResponse,
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    Input,
    ModelSpec,
    ModelVersionStatus,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
    ReloadConfigResponse,
    SignatureDefMap,
    StatusProto,
)
from ladle.protos.tensorflow_pb import Example, SignatureDef, TensorInfo

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]
Code = grpc.StatusCode


class Refused(Exception):
    """A status that is not OK."""

    def __init__(
        self, code: grpc.StatusCode, details: str = "", *, pushback: str | None = None
    ) -> None:
        super().__init__(code, details)
        self.code, self.details, self.pushback = code, details, pushback


def tensor_info(dtype: str, *shape: int) -> TensorInfo:
    info = TensorInfo(dtype=dtypes.from_numpy(np.dtype(dtype)))
    for size in shape:
        info.tensor_shape.dim.add(size=size)
    return info


def signature_def(
    inputs: Mapping[str, TensorInfo], outputs: Mapping[str, TensorInfo]
) -> SignatureDef:
    return SignatureDef(inputs=inputs, outputs=outputs, method_name="tensorflow/serving/predict")


def image_signature(dtype: str = "float32", size: int = 2, name: str = "images") -> SignatureDef:
    """A classifier of two classes, over square images."""
    return signature_def(
        {name: tensor_info(dtype, -1, size, size)}, {"scores": tensor_info("float32", -1, 2)}
    )


def mean_and_rest(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """A model whose first score tells what it was fed: the mean of each image."""
    (images,) = inputs.values()
    mean = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    return {"scores": np.stack([mean, 1 - mean], axis=1)}


@dataclass
class Version:
    """One version of a model."""

    signatures: dict[str, SignatureDef] = field(
        default_factory=lambda: {"serving_default": image_signature()}
    )
    card: ModelCard | None = None
    run: Callable[[Arrays], Arrays] = mean_and_rest


def image_version(
    divisor: float | None, *, labels: tuple[str, ...] = (), dtype: str = "float32", size: int = 2
) -> Version:
    """A version with a card: what its training divided pixels by, or that it doesn't tell."""
    normalization = None if divisor is None else Normalization(divisor=divisor)

    def run(inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Take raw pixels too, as the signatures of ladle's exporter do."""
        return mean_and_rest(
            {
                name: array if array.dtype != np.uint8 or not normalization else normalize(array)
                for name, array in inputs.items()
            }
        )

    def normalize(pixels: NDArray[Any]) -> NDArray[Any]:
        assert normalization is not None
        return normalization.apply(pixels)

    return Version(
        run=run,
        signatures={
            "serving_default": image_signature(dtype, size),
            "serving_uint8": image_signature("uint8", size),
        },
        card=ModelCard(labels=labels, normalization=normalization),
    )


class FakeServing:
    """Answers as TensorFlow Serving does for model "m", and with cards as ladle does.

    `versions` are all of those loaded, and `labels` name some; without either in a request the
    highest answers. Override `predict` and its kin, or change `versions`, as a test needs it.
    """

    def __init__(
        self, versions: dict[int, Version], *, has_cards: bool = True, has_metadata: bool = True
    ) -> None:
        self.versions = versions
        self.labels: dict[str, int] = {}
        self.has_cards = has_cards
        self.has_metadata = has_metadata
        self.predicted: list[PredictRequest] = []
        self.metadata_asked: list[GetModelMetadataRequest] = []
        self.examples_asked: list[Input] = []
        self.reloaded: list[ReloadConfigRequest] = []
        self.reload_status = StatusProto()
        self.models: list[ladle_pb.Model] | None = None
        """None: the server can't list them, as TensorFlow Serving."""
        self.is_healthy: bool | None = True
        """None: there are no health checks."""
        self.has_streams = False
        """Whether PredictStream is served, as by ladle."""
        self.streams = 0
        """How many streams have begun."""
        self.chunk_rows: int | None = None
        """How many rows PredictInChunks puts into each message; None where it is not served."""

    def answer(self, method: str, body: bytes) -> bytes:
        """Return the response, the same bytes every time, or raise Refused."""
        return self._respond(method, body).SerializeToString(deterministic=True)

    def _respond(self, method: str, body: bytes) -> Message:
        match method:
            case requests.PREDICT:
                return self.predict(PredictRequest.FromString(body))
            case requests.GET_MODEL_METADATA:
                asked = GetModelMetadataRequest.FromString(body)
                return self.metadata(asked)
            case requests.GET_MODEL_STATUS:
                return self.status(GetModelStatusRequest.FromString(body))
            case requests.CLASSIFY:
                return self.classify(ClassificationRequest.FromString(body))
            case requests.REGRESS:
                return self.regress(RegressionRequest.FromString(body))
            case requests.MULTI_INFERENCE:
                asked_for = MultiInferenceRequest.FromString(body)
                return self.multi_inference(asked_for)
            case requests.RELOAD_CONFIG:
                self.reloaded.append(ReloadConfigRequest.FromString(body))
                return ReloadConfigResponse(status=self.reload_status)
            case requests.LIST_MODELS if self.models is not None:
                return ListModelsResponse(model=self.models)
            case requests.LOAD_MODEL if self.models:
                return ladle_pb.LoadModelResponse(model=self.models[0])
            case requests.RESCAN_MODEL if self.models:
                return ladle_pb.RescanModelResponse(model=self.models[0])
            case requests.UNLOAD_MODEL if self.models:
                return ladle_pb.UnloadModelResponse()
            case requests.CHECK_HEALTH if self.is_healthy is not None:
                status = "SERVING" if self.is_healthy else "NOT_SERVING"
                return HealthCheckResponse(status=status)
        raise Refused(Code.UNIMPLEMENTED)

    def stop(self) -> None:
        """Let go of whatever calls wait for; called before the server behind gRPC ends."""

    def predict(self, request: PredictRequest) -> PredictResponse:
        self.predicted.append(request)
        number = self.find(request.model_spec)
        version = self.versions[number]
        name = request.model_spec.signature_name or "serving_default"
        if name not in version.signatures:
            raise Refused(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        self._check(request, version.signatures[name])
        arrays = {alias: tensors.to_array(tensor) for alias, tensor in request.inputs.items()}
        response = PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = number
        response.model_spec.signature_name = name
        for alias, array in version.run(arrays).items():
            response.outputs[alias].CopyFrom(tensors.to_proto(array))
        return response

    def chunks(self, request: PredictRequest) -> Iterator[PredictChunk]:
        whole = self.predict(request)
        arrays = {name: tensors.to_array(tensor) for name, tensor in whole.outputs.items()}
        total = len(next(iter(arrays.values())))
        assert self.chunk_rows
        for start in range(0, total, self.chunk_rows):
            chunk = PredictChunk(first_row=start, total_rows=total)
            chunk.response.model_spec.CopyFrom(whole.model_spec)
            for name, array in arrays.items():
                part = tensors.to_proto(array[start : start + self.chunk_rows])
                chunk.response.outputs[name].CopyFrom(part)
            yield chunk

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        self.metadata_asked.append(request)
        if not self.has_metadata:
            raise Refused(Code.UNIMPLEMENTED)
        number = self.find(request.model_spec)
        version = self.versions[number]
        response = GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = number
        for asked in request.metadata_field:
            if asked == "signature_def":
                signatures = SignatureDefMap(signature_def=version.signatures)
                response.metadata[asked].Pack(signatures, deterministic=True)
            elif asked != CARD_METADATA_FIELD or not self.has_cards:
                raise Refused(Code.INVALID_ARGUMENT, f"Metadata field {asked} is not supported")
            elif version.card is not None:
                card = ModelCardMessage(json=version.card.to_json())
                response.metadata[asked].Pack(card)
        return response

    def classify(self, request: ClassificationRequest) -> ClassificationResponse:
        """Give each example the classes "x" and "rest", scored by its feature x."""
        spec = self._spec(request.model_spec)
        response = ClassificationResponse(model_spec=spec)
        for x in self._xs(request.input):
            row = response.result.classifications.add()
            row.classes.add(label="x", score=x)
            row.classes.add(label="rest", score=1 - x)
        return response

    def regress(self, request: RegressionRequest) -> RegressionResponse:
        """Give each example its feature x."""
        response = RegressionResponse(model_spec=self._spec(request.model_spec))
        for x in self._xs(request.input):
            response.result.regressions.add(value=x)
        return response

    def multi_inference(self, request: MultiInferenceRequest) -> MultiInferenceResponse:
        response = MultiInferenceResponse()
        for task in request.tasks:
            result = response.results.add(model_spec=self._spec(task.model_spec))
            if task.method_name == "tensorflow/serving/classify":
                classified = self.classify(
                    ClassificationRequest(model_spec=task.model_spec, input=request.input)
                )
                result.classification_result.CopyFrom(classified.result)
            else:
                regressed = self.regress(
                    RegressionRequest(model_spec=task.model_spec, input=request.input)
                )
                result.regression_result.CopyFrom(regressed.result)
        return response

    def _spec(self, asked: ModelSpec) -> ModelSpec:
        answered = ModelSpec(name=asked.name, signature_name=asked.signature_name)
        answered.version.value = self.find(asked)
        return answered

    def _xs(self, sent: Input) -> list[float]:
        self.examples_asked.append(sent)
        with_context = sent.example_list_with_context
        xs: list[float] = []
        for example in [*sent.example_list.examples, *with_context.examples]:
            merged = Example()
            merged.MergeFrom(with_context.context)
            merged.MergeFrom(example)
            xs += merged.features.feature["x"].float_list.value
        return xs

    def status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        self.find(request.model_spec)
        states = [ModelVersionStatus(version=number, state="AVAILABLE") for number in self.versions]
        return GetModelStatusResponse(model_version_status=states)

    def find(self, spec: ModelSpec) -> int:
        """Return the version that answers."""
        if spec.HasField("version_label"):
            if spec.version_label not in self.labels:
                raise Refused(
                    Code.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {spec.version_label}",
                )
            return self.labels[spec.version_label]
        number = spec.version.value if spec.HasField("version") else max(self.versions, default=0)
        if spec.name != "m" or number not in self.versions:
            raise Refused(Code.NOT_FOUND, f"Servable not found for request: {spec.name}, {number}")
        return number

    def _check(self, request: PredictRequest, signature: SignatureDef) -> None:
        for name, info in signature.inputs.items():
            if name not in request.inputs:
                raise Refused(Code.INVALID_ARGUMENT, f"Missing but required: {name}")
            if request.inputs[name].dtype != info.dtype:
                raise Refused(Code.INVALID_ARGUMENT, f"wrong dtype for {name}")


def drive(flow: Flow[T], server: FakeServing) -> T:
    """Run a flow against a server, with neither gRPC nor time between them."""
    try:
        request = next(flow)
        while True:
            if isinstance(request, Pause):
                request = flow.send(b"")
                continue
            try:
                answer = server.answer(request.method, request.body)
            except Refused as refused:
                error = errors.from_status(refused.code, refused.details, "the fake")
                request = flow.throw(error)
            else:
                request = flow.send(answer)
    except StopIteration as finished:
        result: T = finished.value
        return result


class Handler(grpc.GenericRpcHandler):
    """Puts a server behind gRPC; it calls `on_call` with the metadata of each call."""

    def __init__(self, server: FakeServing, on_call: Callable[[Mapping[str, str]], None]) -> None:
        self._server, self._on_call = server, on_call

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        method = handler_call_details.method
        if method == requests.PREDICT_STREAM and self._server.has_streams:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method == requests.PREDICT_IN_CHUNKS and self._server.chunk_rows is not None:
            return grpc.unary_stream_rpc_method_handler(self._chunks)
        if method not in requests.METHODS:
            return None

        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            about = {"remaining_s": str(context.time_remaining()), "peer": context.peer()}
            self._on_call(metadata | about)
            try:
                return self._server.answer(method, body)
            except Refused as refused:
                if refused.pushback is not None:
                    context.set_trailing_metadata((("grpc-retry-pushback-ms", refused.pushback),))
                context.abort(refused.code, refused.details)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _chunks(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            chunks = self._server.chunks(PredictRequest.FromString(body))
            yield from (chunk.SerializeToString() for chunk in chunks)
        except Refused as refused:
            context.abort(refused.code, refused.details)

    def _stream(self, sent: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Answer requests as they are ready, each from a thread of its own."""
        self._server.streams += 1
        self._on_call({key: str(value) for key, value in context.invocation_metadata()})
        yield PredictStreamResponse(start=StreamStart(window_requests=64)).SerializeToString()
        answers: SimpleQueue[PredictStreamResponse | None] = SimpleQueue()

        def answer(request: PredictStreamRequest) -> None:
            response = PredictStreamResponse(id=request.id)
            try:
                response.response.CopyFrom(self._server.predict(request.request))
            except Refused as refused:
                response.error.error_code = refused.code.value[0]
                response.error.error_message = refused.details
            answers.put(response)

        def read() -> None:
            threads = []
            with suppress(grpc.RpcError):
                for message in sent:
                    request = PredictStreamRequest.FromString(message)
                    threads.append(threading.Thread(target=answer, args=(request,), daemon=True))
                    threads[-1].start()
            for thread in threads:
                thread.join()
            answers.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (response := answers.get()) is not None:
            yield response.SerializeToString()


@contextmanager
def listening(
    server: FakeServing,
    *,
    on_call: Callable[[Mapping[str, str]], None] = lambda metadata: None,
    max_receive_bytes: int = -1,
) -> Iterator[str]:
    """Put a server behind gRPC on a free port of the loopback; gives its address.

    `on_call` is given each call's metadata, the time that is left for it as `remaining_s`, and
    whom it comes from as `peer`.
    """
    with ThreadPoolExecutor(8) as executor:
        grpc_server = grpc.server(
            executor,
            handlers=[Handler(server, on_call)],
            options=[("grpc.max_receive_message_length", max_receive_bytes)],
        )
        port = grpc_server.add_insecure_port("127.0.0.1:0")
        grpc_server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop()
            grpc_server.stop(grace=None).wait()
