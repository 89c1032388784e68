"""The messages of the Open Inference Protocol's ModelStreamInfer.

Pure functions, safe in any thread.
"""

from __future__ import annotations

from ladle.client.errors import Unimplemented
from ladle.client.messages.open_inference.requests import MODEL_STREAM_INFER
from ladle.client.messages.streams import StreamAnswer, parse_streamed
from ladle.protos import inference_pb, wire

_ID = inference_pb.ModelInferRequest.ID_FIELD_NUMBER
_FINAL = "triton_final_response"
_MOST_DIGITS = 18


class ModelStreamInferMessages:
    """The messages of ModelStreamInfer; the id of a request comes back in its answer."""

    method = MODEL_STREAM_INFER
    has_start = False

    def encode(self, request_id: int, body: bytes) -> bytes:
        """Return a ModelInferRequest with an id."""
        return wire.join([body, *wire.bytes_field(_ID, [b"%d" % request_id])])

    def read(self, message: bytes, what: str) -> StreamAnswer | None:
        """Read a ModelStreamInferResponse.

        An error comes as text without a status, so its answer has neither body nor error.

        Raises:
            InvalidAnswer: It is no ModelStreamInferResponse.
            Unimplemented: It has no id of ours, as in answers of old Tritons' errors and of
                MLServer; or it is a part of an answer, of a decoupled model.
        """
        streamed = parse_streamed(inference_pb.ModelStreamInferResponse, message, what)
        answer = streamed.infer_response
        if not (answer.id.isascii() and answer.id.isdigit() and len(answer.id) <= _MOST_DIGITS):
            raise Unimplemented(
                f"{what}: the server answered without the id of a request: "
                f"{streamed.error_message or 'no error'}"
            )
        if not streamed.error_message and not _is_final(answer):
            raise Unimplemented(f"{what}: the model answers one request several times")
        body = None if streamed.error_message else answer.SerializeToString()
        return StreamAnswer(int(answer.id), body)


MODEL_STREAM_INFER_MESSAGES = ModelStreamInferMessages()


def _is_final(answer: inference_pb.ModelInferResponse) -> bool:
    return _FINAL not in answer.parameters or answer.parameters[_FINAL].bool_param
