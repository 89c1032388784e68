"""Which kind each method is of, and which models a request is about; asks Access about both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from ladle.protos.inference_pb import ModelMetadataRequest, RepositoryModelLoadRequest
from ladle.protos.ladle_pb import (
    ListModelsRequest,
    LoadModelRequest,
    PredictOutline,
    PredictStreamOutline,
    PredictStreamRequest,
    RescanModelRequest,
    TasksRequest,
    UnloadModelRequest,
)
from ladle.server.call import Call, Gate, Handler, Methods, NonBlocking, Stream, Streaming
from ladle.server.core.access import Access, Kind, is_forwarded
from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.rpc.request import parse
from ladle.server.rpc.status import as_status

Names: TypeAlias = "Collection[str] | None"
"""Of models; None stands for all that there are."""


_INFERENCE = "/inference.GRPCInferenceService"


class Rule(NamedTuple):
    """What has to be asked before a method is called."""

    kind: Kind
    models: Callable[[bytes], Names] = lambda _: ()
    """Returns which models a request message is about, or raises InvalidArgument."""


def _of_spec(request: bytes) -> Names:
    # All requests but those below have their model_spec in the first field. An outline has no
    # other, so protobuf itself reads it, by the same rules as the method does later, and steps
    # over the tensors.
    return [parse(PredictOutline, request, "request").model_spec.name]


def _of_tasks(request: bytes) -> Names:
    return [task.model_spec.name for task in parse(TasksRequest, request).tasks]


def _of_stream(request: bytes) -> Names:
    name = PredictStreamRequest.DESCRIPTOR.full_name
    return [parse(PredictStreamOutline, request, name).request.model_spec.name]


def inference_rules(model_of: Callable[[str], str]) -> dict[str, Rule]:
    """Return the rules of the Open Inference Protocol's methods about one model.

    `model_of` returns the model that a name stands for: a caller may append a signature to a name.
    """

    def models(request: bytes) -> Names:
        # `name` and `model_name` are the first field of all these requests.
        return [model_of(parse(ModelMetadataRequest, request, "request").name)]

    def models_or_all(request: bytes) -> Names:
        name = parse(ModelMetadataRequest, request, "request").name
        return [model_of(name)] if name else None

    return {
        f"{_INFERENCE}/ModelMetadata": Rule(Kind.METADATA, models),
        f"{_INFERENCE}/ModelConfig": Rule(Kind.METADATA, models),
        f"{_INFERENCE}/ModelStatistics": Rule(Kind.METADATA, models_or_all),
        f"{_INFERENCE}/ModelInfer": Rule(Kind.PREDICT, models),
        f"{_INFERENCE}/ModelStreamInfer": Rule(Kind.PREDICT, models),
    }


def _of_repository(request: bytes) -> Names:
    message = parse(RepositoryModelLoadRequest, request, "request")
    return [message.model_name or message.repository_name]  # KServe's stub has the name there


def _repository_rules(service: str) -> dict[str, Rule]:
    return {
        f"{service}/RepositoryIndex": Rule(Kind.METADATA, lambda _: None),
        f"{service}/RepositoryModelLoad": Rule(Kind.ADMIN, _of_repository),
        f"{service}/RepositoryModelUnload": Rule(Kind.ADMIN, _of_repository),
    }


def _listed(request: bytes) -> Names:
    name = parse(ListModelsRequest, request).name
    return [name] if name else None


RULES = {
    "/tensorflow.serving.PredictionService/Predict": Rule(Kind.PREDICT, _of_spec),
    "/tensorflow.serving.PredictionService/Classify": Rule(Kind.PREDICT, _of_spec),
    "/tensorflow.serving.PredictionService/Regress": Rule(Kind.PREDICT, _of_spec),
    "/tensorflow.serving.PredictionService/MultiInference": Rule(Kind.PREDICT, _of_tasks),
    "/tensorflow.serving.PredictionService/GetModelMetadata": Rule(Kind.METADATA, _of_spec),
    "/tensorflow.serving.ModelService/GetModelStatus": Rule(Kind.METADATA, _of_spec),
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": Rule(Kind.ADMIN, lambda _: None),
    "/ladle.v1.StreamingPrediction/PredictStream": Rule(Kind.PREDICT, _of_stream),
    "/ladle.v1.StreamingPrediction/PredictInChunks": Rule(Kind.PREDICT, _of_spec),
    "/ladle.v1.ModelRepository/ListModels": Rule(Kind.METADATA, _listed),
    "/ladle.v1.ModelRepository/LoadModel": Rule(
        Kind.ADMIN, lambda request: [parse(LoadModelRequest, request).config.name]
    ),
    "/ladle.v1.ModelRepository/UnloadModel": Rule(
        Kind.ADMIN, lambda request: [parse(UnloadModelRequest, request).name]
    ),
    "/ladle.v1.ModelRepository/RescanModel": Rule(
        Kind.ADMIN, lambda request: [parse(RescanModelRequest, request).name]
    ),
    f"{_INFERENCE}/ServerLive": Rule(Kind.OPEN),
    f"{_INFERENCE}/ServerReady": Rule(Kind.OPEN),
    f"{_INFERENCE}/ModelReady": Rule(Kind.OPEN),
    f"{_INFERENCE}/ServerMetadata": Rule(Kind.METADATA),
    f"{_INFERENCE}/SystemSharedMemoryStatus": Rule(Kind.METADATA),
    f"{_INFERENCE}/SystemSharedMemoryRegister": Rule(Kind.METADATA),
    f"{_INFERENCE}/SystemSharedMemoryUnregister": Rule(Kind.METADATA),
    f"{_INFERENCE}/CudaSharedMemoryStatus": Rule(Kind.METADATA),
    f"{_INFERENCE}/CudaSharedMemoryRegister": Rule(Kind.METADATA),
    f"{_INFERENCE}/CudaSharedMemoryUnregister": Rule(Kind.METADATA),
    f"{_INFERENCE}/TraceSetting": Rule(Kind.METADATA),
    f"{_INFERENCE}/LogSettings": Rule(Kind.METADATA),
    **_repository_rules(_INFERENCE),
    # MLServer's name for the same methods.
    **_repository_rules("/inference.model_repository.ModelRepositoryService"),
    **inference_rules(lambda name: name),
    "/tensorflow.ProfilerService/Profile": Rule(Kind.ADMIN, lambda _: None),
    "/tensorflow.ProfilerService/Terminate": Rule(Kind.ADMIN, lambda _: None),
    # Kubernetes and gRPC's clients ask for health without a token.
    "/grpc.health.v1.Health/Check": Rule(Kind.OPEN),
    "/grpc.health.v1.Health/Watch": Rule(Kind.OPEN),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Kind.METADATA),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Kind.METADATA),
}
"""Of every method that the server answers, by its path."""


def gate(access: Access, observer: Observer | None = None) -> Gate | None:
    """Return what a transport asks of each call first; None if there is nothing to be asked.

    `observer` hears of calls that the gate refuses.
    """
    observer = observer or Unobserved()
    if not access.by_token:
        return None

    def let_through(path: str, authorization: str | None) -> None:
        rule = RULES.get(path)
        try:
            access.admit(rule and rule.kind, authorization, local=False)
        except ServingError as error:
            _observe(path if rule else "", b"", error, observer)
            raise

    return let_through


def guarded(
    methods: Methods,
    access: Access,
    observer: Observer | None = None,
    rules: Mapping[str, Rule] = RULES,
) -> Methods:
    """Return the methods behind their rules; without tokens only those of admin have any.

    `observer` hears of requests that are refused here.

    Raises:
        KeyError: A method has no rule.
    """
    observer = observer or Unobserved()
    return {
        path: _guarded(path, method, rules[path], access, observer)
        for path, method in methods.items()
    }


def _observe(path: str, request: bytes, error: ServingError, observer: Observer) -> None:
    Observation(path.rpartition("/")[2], "GRPC", request).end(error, observer)


def _guarded(
    path: str,
    method: Handler | NonBlocking | Streaming,
    rule: Rule,
    access: Access,
    observer: Observer,
) -> Handler | NonBlocking | Streaming:
    if not access.by_token and rule.kind is not Kind.ADMIN:
        return method

    def refusal(call: Call | Stream, request: bytes) -> ServingError | None:
        try:
            authorization = call.metadata("authorization")
            local = call.local and not is_forwarded(call.metadata)
            grant = access.admit(rule.kind, authorization, local=local)
            if not grant.every_model:
                grant.require_models(rule.models(request))
        except Exception as error:
            return as_status(error, path)
        return None

    def admits(call: Call) -> bool:
        """Whether the call may go on; it has failed if not."""
        error = refusal(call, call.request)
        if error is None:
            return True
        if call.shared_observation is None:
            _observe(path, call.request, error, observer)
        call.fail(error)
        return False

    if isinstance(method, Streaming):

        def refuse(stream: Stream, request: bytes) -> ServingError | None:
            error = refusal(stream, request)
            if error is not None:
                _observe(path, request, error, observer)
            return error

        return replace(method, handle=lambda s: method.handle(_GuardedStream(s, refuse, access)))

    def as_granted(call: Call) -> Call:
        return _CappedCall(call, access) if access.by_token and rule.kind is Kind.PREDICT else call

    if isinstance(method, NonBlocking):
        # Each caller is asked for its token, and so each call is handled by itself.
        return replace(
            method,
            handle=lambda call: method.handle(as_granted(call)) if admits(call) else None,
            alike=None,
        )

    def handle(call: Call) -> None:
        if admits(call):
            method(as_granted(call))

    return handle


class _CappedCall:
    """A Call whose priority is no higher than its caller's token allows."""

    def __init__(self, call: Call, access: Access) -> None:
        self._call = call
        self.request = call.request
        self.local = call.local
        self.deadline = call.deadline
        self.shared_observation = call.shared_observation
        self.metadata = access.capped(call.metadata)
        self.on_end = call.on_end
        self.respond = call.respond
        self.fail = call.fail

    def discard_request(self) -> None:
        self.request = b""
        self._call.discard_request()


class _GuardedStream:
    """A Stream that ends at the first message that its caller may not send.

    Each is asked about, so that a token which was taken back does not live on in a stream.
    """

    def __init__(
        self,
        stream: Stream,
        refusal: Callable[[Stream, bytes], ServingError | None],
        access: Access,
    ) -> None:
        self._stream = stream
        self._refusal = refusal
        self.local = stream.local
        self.deadline = stream.deadline
        self.metadata = access.capped(stream.metadata)
        self.on_end = stream.on_end
        self.on_stop = stream.on_stop
        self.on_idle = stream.on_idle
        self.in_thread = stream.in_thread
        self.reserve = stream.reserve
        self.give_back = stream.give_back
        self.send = stream.send
        self.end = stream.end

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        def received(message: bytes | None) -> None:
            error = None if message is None else self._refusal(self._stream, message)
            if error is None:
                callback(message)
            else:
                self._stream.end(error)

        self._stream.receive(received)
