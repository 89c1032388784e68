"""Which kind each method is of, and which models a request is about; asks Access about both."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, TypeAlias

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
from ladle.server.call import Call, Gate, Handler, Methods, Prompt, Stream, Streaming
from ladle.server.core.access import Access, Kind
from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.rpc.observed import borrowed
from ladle.server.rpc.request import parse
from ladle.server.rpc.status import as_status

Names: TypeAlias = "Collection[str] | None"
"""Of models; None stands for all that there are."""


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
    "/tensorflow.ProfilerService/Profile": Rule(Kind.ADMIN, lambda _: None),
    "/tensorflow.ProfilerService/Terminate": Rule(Kind.ADMIN, lambda _: None),
    # The transport's own. Kubernetes and gRPC's clients ask for health without a token.
    "/grpc.health.v1.Health/Check": Rule(Kind.OPEN),
    "/grpc.health.v1.Health/Watch": Rule(Kind.OPEN),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Kind.METADATA),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Kind.METADATA),
}
"""Of every method that the server answers, by its path."""


def gate(access: Access, observer: Observer | None = None) -> Gate | None:
    """Return what a transport asks of each call first; None if there is nothing to be asked.

    `observer` hears of those that are not let through.
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


def guarded(methods: Methods, access: Access, observer: Observer | None = None) -> Methods:
    """Return the methods behind their rules; without tokens only those of admin have any.

    `observer` hears of requests that are refused here.

    Raises:
        KeyError: A method has no rule.
    """
    observer = observer or Unobserved()
    return {
        path: _guarded(path, method, RULES[path], access, observer)
        for path, method in methods.items()
    }


def _observe(path: str, request: bytes, error: ServingError, observer: Observer) -> None:
    Observation(path.rpartition("/")[2], "GRPC", request).end(error, observer)


def _guarded(
    path: str,
    method: Handler | Prompt | Streaming,
    rule: Rule,
    access: Access,
    observer: Observer,
) -> Handler | Prompt | Streaming:
    if not access.by_token and rule.kind is not Kind.ADMIN:
        return method

    def refusal(call: Call | Stream, request: bytes) -> ServingError | None:
        try:
            authorization = call.metadata("authorization")
            grant = access.admit(rule.kind, authorization, local=call.local)
            if not grant.every_model:
                grant.require_models(rule.models(request))
        except Exception as error:
            status = as_status(error, path)
            if borrowed(call) is None:
                _observe(path, request, status, observer)
            return status
        return None

    if isinstance(method, Streaming):
        return Streaming(lambda stream: method.handle(_GuardedStream(stream, refusal)))

    if isinstance(method, Prompt):

        def handle_promptly(call: Call) -> Handler | None:
            error = refusal(call, call.request)
            if error is None:
                return method.handle(call)
            call.refuse(error)
            return None

        return Prompt(handle_promptly)

    def handle(call: Call) -> None:
        error = refusal(call, call.request)
        if error is None:
            method(call)
        else:
            call.refuse(error)

    return handle


class _GuardedStream:
    """A Stream that ends at the first message that its caller may not send.

    Each is asked about, so that a token which was taken back does not live on in a stream.
    """

    def __init__(
        self, stream: Stream, refusal: Callable[[Stream, bytes], ServingError | None]
    ) -> None:
        self._stream = stream
        self._refusal = refusal
        self.local = stream.local
        self.deadline = stream.deadline
        self.metadata = stream.metadata
        self.on_end = stream.on_end
        self.on_stop = stream.on_stop
        self.on_lull = stream.on_lull
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
