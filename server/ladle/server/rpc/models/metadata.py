"""PredictionService.GetModelMetadata: a version's signatures and its model card."""

from __future__ import annotations

from google.protobuf.message import Message

from ladle.protos.ladle_pb import ModelCard
from ladle.protos.model_card import CARD_METADATA_FIELD
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.servable import Servable
from ladle.server.rpc.middleware import BlockingPart, ObservedCall
from ladle.server.rpc.request import parse, require_model_spec, with_version

_SIGNATURES = "signature_def"


class GetModelMetadata:
    """Answers GetModelMetadata requests; thread-safe.

    Beside upstream's `signature_def` there is a field of our own for the model card; a version
    without one leaves it out of the answer.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def __call__(self, call: ObservedCall) -> BlockingPart | None:
        """Answer the call with a GetModelMetadataResponse; never blocks.

        Returns what has to be called in a thread instead, where it has to wait for the model.
        """
        request = _read(call.request)
        call.observation.model = request.model_spec.name

        def answer(handle: Handle) -> None:
            call.observation.served_by(handle.id)
            call.respond(_response(handle, request))

        return with_version(self._manager, request.model_spec, answer)


def _read(data: bytes) -> GetModelMetadataRequest:
    request = parse(GetModelMetadataRequest, data)
    require_model_spec(request)
    if not request.metadata_field:
        raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field not in (_SIGNATURES, CARD_METADATA_FIELD):
            raise InvalidArgument(f"Metadata field {field} is not supported")
    return request


def _response(handle: Handle, request: GetModelMetadataRequest) -> bytes:
    with handle:
        response = GetModelMetadataResponse()
        response.model_spec.name = handle.id.name
        response.model_spec.version.value = handle.id.version
        for field in set(request.metadata_field):
            message = _metadata(handle.servable, field)
            if message is not None:
                response.metadata[field].Pack(message)
        return response.SerializeToString()


def _metadata(servable: Servable, field: str) -> Message | None:
    if field == CARD_METADATA_FIELD:
        return None if servable.card_json is None else ModelCard(json=servable.card_json)
    signatures = SignatureDefMap()
    for name, definition in servable.signature_defs.items():
        signatures.signature_def[name].MergeFromString(definition)
    return signatures
