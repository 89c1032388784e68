"""ladle.v1.StreamingPrediction/PredictStream: many independent Predict requests on one call."""

from __future__ import annotations

from collections.abc import Callable

from ladle.protos import wire
from ladle.protos.ladle_pb import (
    PredictStreamOutline,
    PredictStreamRequest,
    PredictStreamResponse,
)
from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Observer
from ladle.server.rpc.prediction.predict import ParsedPredict, Predict
from ladle.server.rpc.request import parse, require_model_spec
from ladle.server.rpc.streaming.dialect import Head
from ladle.server.rpc.streaming.queued_stream import streaming
from ladle.server.rpc.streaming.read_ahead import ReadAheadWindow

_PATH = "/ladle.v1.StreamingPrediction/PredictStream"
_REQUEST: str = PredictStreamRequest.DESCRIPTOR.full_name


def predict_stream(
    manager: Manager,
    predict: Predict,
    window: ReadAheadWindow | None = None,
    observer: Observer | None = None,
) -> Streaming:
    """Return the handler of the method.

    Args:
        manager: where the models are.
        predict: how requests are read and answered.
        window: how far each stream is read ahead of its answers.
        observer: hears of each request.
    """
    window = window or ReadAheadWindow()
    return streaming(
        lambda stream: _PredictDialect(stream, predict, window), manager, window, observer
    )


class _PredictDialect:
    """The messages of one PredictStream."""

    path = _PATH

    def __init__(self, stream: Stream, predict: Predict, window: ReadAheadWindow) -> None:
        self.method = predict
        self._typed = predict.is_typed(stream.metadata)
        self._window = window

    def opening(self) -> bytes:
        """Return the window, which callers may fill."""
        start = PredictStreamResponse()
        start.start.window_requests = self._window.requests
        start.start.window_bytes = self._window.nbytes
        return start.SerializeToString()

    def outline(self, message: bytes) -> Head:
        """Return the head of a message that there was no room for."""
        return _head(parse(PredictStreamOutline, message, _REQUEST))

    def read(
        self, message: bytes, seen: Observation
    ) -> tuple[Head, Callable[[], tuple[ParsedPredict, float | None]]]:
        """Return the head of a message, and what returns its request."""
        request = parse(PredictStreamRequest, message)

        def parsed() -> tuple[ParsedPredict, None]:
            require_model_spec(request.request)
            return ParsedPredict(request.request, {}, self._typed), None

        return _head(request), parsed

    def missing(self, tag: object) -> None:
        """Let the error say it."""

    def answer(self, tag: object, answer: bytes) -> bytes:
        """Return the PredictStreamResponse of an answer."""
        assert isinstance(tag, int)
        head = wire.varint_field(2, tag) if tag else b""
        return wire.join([head, *wire.bytes_field(3, [answer])])

    def refusal(self, tag: object, error: ServingError) -> bytes:
        """Return the PredictStreamResponse of a request that failed."""
        assert isinstance(tag, int)
        response = PredictStreamResponse(id=tag)
        response.error.error_code = int(error.code)
        response.error.error_message = error.message
        return response.SerializeToString()


def _head(request: PredictStreamRequest | PredictStreamOutline) -> Head:
    return Head(request.request.model_spec.name, request.id, request.answer_as_ready)
