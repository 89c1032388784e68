"""ModelStreamInfer: many requests on one call, answered in their order, failures among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ladle.protos import wire
from ladle.protos.inference_pb import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from ladle.protos.ladle_pb import ModelInferOutline
from ladle.server.call import Streaming
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Observer
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.infer import ModelInfer, ParsedInfer, read
from ladle.server.rpc.request import parse
from ladle.server.rpc.streaming.dialect import Head
from ladle.server.rpc.streaming.queued_stream import streaming

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"

_INFER_RESPONSE = 2
_REQUEST: str = ModelInferRequest.DESCRIPTOR.full_name
# Models here give one answer to each request. Callers who can't know that look for this.
_FINAL = wire.join(
    wire.map_entry(
        4, "triton_final_response", [InferParameter(bool_param=True).SerializeToString()]
    )
)


def model_stream_infer(
    manager: Manager, method: ModelInfer, observer: Observer | None = None
) -> Streaming:
    """Return the handler of the method; `observer` hears of each request."""
    dialect = _InferDialect(manager, method)
    return streaming(lambda _: dialect, manager, observer=observer)


class _Asked(NamedTuple):
    """What an answer repeats of its request."""

    id: str
    model: str
    version: str


class _InferDialect:
    """The messages of every such stream; it has no state."""

    path = PATH

    def __init__(self, manager: Manager, method: ModelInfer) -> None:
        self.method = method
        self._manager = manager

    def opening(self) -> None:
        """Have nothing sent before the first answer."""

    def outline(self, message: bytes) -> Head:
        """Return the head of a message that there was no room for."""
        return _head(parse(ModelInferOutline, message, _REQUEST))

    def read(
        self, message: bytes, seen: Observation
    ) -> tuple[Head, Callable[[], tuple[ParsedInfer, float | None]]]:
        """Return the head of a message, and what returns its request."""
        given = read(message)

        def parsed() -> tuple[ParsedInfer, float | None]:
            request = self.method.understand(*given)
            if request.message.id:
                seen.known_as(request.message.id)
            return request._replace(seen=seen), request.deadline

        return _head(given[0]), parsed

    def missing(self, tag: object) -> ServingError:
        """Return why the version that a request names can't be had."""
        assert isinstance(tag, _Asked)
        name = names.parse_name(tag.model, self._manager)
        spec = names.parse_version(name, tag.version)
        if self._manager.is_known(name.model):
            spec = names.resolve_label(self._manager, spec)
        return names.missing(name, spec, self._manager)

    def answer(self, tag: object, answer: bytes) -> bytes:
        """Return the ModelStreamInferResponse of an answer."""
        return wire.join(wire.bytes_field(_INFER_RESPONSE, [answer, _FINAL]))

    def refusal(self, tag: object, error: ServingError) -> bytes:
        """Return the ModelStreamInferResponse of a request that failed."""
        assert isinstance(tag, _Asked)
        response = ModelInferResponse(
            id=tag.id, model_name=tag.model, model_version=tag.version
        ).SerializeToString()
        message = ModelStreamInferResponse(error_message=error.message).SerializeToString()
        return message + self.answer(tag, response)


def _head(message: ModelInferRequest | ModelInferOutline) -> Head:
    asked = _Asked(message.id, message.model_name, message.model_version)
    return Head(message.model_name, asked)
