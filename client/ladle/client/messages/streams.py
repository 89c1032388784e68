"""The messages of calls that carry many predictions: ladle's PredictStream.

Those of the Open Inference Protocol are in `open_inference/streams.py`. Pure functions, safe in any
thread.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ladle.client.errors import InvalidAnswer, LadleError, from_status
from ladle.client.messages.requests import PREDICT_STREAM
from ladle.client.messages.responses import code_of
from ladle.protos import ladle_pb, wire

M = TypeVar("M", bound=Message)

_ID = ladle_pb.PredictStreamRequest.ID_FIELD_NUMBER
_REQUEST = ladle_pb.PredictStreamRequest.REQUEST_FIELD_NUMBER
_ANSWER_AS_READY = ladle_pb.PredictStreamRequest.ANSWER_AS_READY_FIELD_NUMBER


class StreamAnswer(NamedTuple):
    """One answer of a stream: the bytes of a unary call's answer, an error, or neither.

    Neither means that the request failed, and that only a unary call tells its status.
    """

    request_id: int
    body: bytes | None = None
    error: LadleError | None = None


class StreamMessages(Protocol):
    """How a protocol puts requests and answers into the messages of a stream."""

    method: str
    """The path of the method."""
    has_start: bool
    """Whether the server begins with a message of its own, before which no request is sent."""

    def encode(self, request_id: int, body: bytes) -> bytes:
        """Return the message for a request whose unary form is `body`."""

    def read(self, message: bytes, what: str) -> StreamAnswer | None:
        """Read a message of the server; None for the start message.

        Raises:
            InvalidAnswer: It is no such message.
            Unimplemented: Answers of this server can't be told apart.
        """


class PredictStreamMessages:
    """The messages of ladle's PredictStream; answers come in any order."""

    method = PREDICT_STREAM
    has_start = True

    def encode(self, request_id: int, body: bytes) -> bytes:
        """Return a PredictStreamRequest that holds a PredictRequest's bytes."""
        head = wire.varint_field(_ID, request_id) + wire.varint_field(_ANSWER_AS_READY, 1)
        return wire.join([head, *wire.bytes_field(_REQUEST, [body])])

    def read(self, message: bytes, what: str) -> StreamAnswer | None:
        """Read a PredictStreamResponse; None for the start message.

        Raises:
            InvalidAnswer: It is no PredictStreamResponse.
        """
        response = parse_streamed(ladle_pb.PredictStreamResponse, message, what)
        if response.HasField("start"):
            return None
        if response.HasField("response"):
            return StreamAnswer(response.id, response.response.SerializeToString())
        status = response.error
        if not status.error_code:
            error: LadleError = InvalidAnswer(
                f"{what}: expected a response or an error, got neither"
            )
        else:
            error = from_status(code_of(status.error_code), status.error_message, what)
        return StreamAnswer(response.id, error=error)


PREDICT_STREAM_MESSAGES = PredictStreamMessages()


def parse_streamed(message: type[M], received: bytes, what: str) -> M:
    """Return a message of a stream.

    Raises:
        InvalidAnswer: The bytes are no such message.
    """
    try:
        return message.FromString(received)
    except DecodeError as error:
        raise InvalidAnswer(
            f"{what}: the server sent {len(received)} bytes that are not the message expected"
        ) from error
