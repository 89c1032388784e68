"""PredictionService.GetModelMetadata: a version's signatures and its model card."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.middleware import BlockingPart, ObservedCall
from ladle.server.rpc.request import parse, require_model_spec, with_version

_SIGNATURES = "signature_def"


class GetModelMetadata:
    """Answers GetModelMetadata requests; thread-safe.

    Beside upstream's `signature_def` there is a field of our own for the model card; a version
    without one leaves it out of the answer. A model that is loaded on demand is not loaded for it.
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
            with handle:
                servable = handle.servable
                response = _response(
                    *handle.id, servable.signature_defs, servable.card_json, request
                )
            call.respond(response)

        if self._manager.is_unloaded(request.model_spec.name):
            return lambda waiter: self._without_load(waiter, call, request, answer)
        return with_version(self._manager, request.model_spec, answer)

    def _without_load(
        self,
        waiter: ObservedCall,
        call: ObservedCall,
        request: GetModelMetadataRequest,
        answer: Callable[[Handle], None],
    ) -> None:
        """Answer from the files of a model that is not loaded, or load it where they don't say."""
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        described = self._manager.describe(spec.name, version, spec.version_label)
        if described is None:
            blocking = with_version(self._manager, spec, answer)
            if blocking is not None:
                blocking(waiter)
            return
        call.observation.served_by(ServableId(spec.name, described.version))
        call.respond(
            _response(
                spec.name, described.version, described.signature_defs, described.card_json, request
            )
        )


def _read(data: bytes) -> GetModelMetadataRequest:
    request = parse(GetModelMetadataRequest, data)
    require_model_spec(request)
    if not request.metadata_field:
        raise InvalidArgument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field not in (_SIGNATURES, CARD_METADATA_FIELD):
            raise InvalidArgument(f"Metadata field {field} is not supported")
    return request


def _response(
    name: str,
    version: int,
    signature_defs: Mapping[str, bytes],
    card_json: str | None,
    request: GetModelMetadataRequest,
) -> bytes:
    response = GetModelMetadataResponse()
    response.model_spec.name = name
    response.model_spec.version.value = version
    for field in set(request.metadata_field):
        if field == _SIGNATURES:
            signatures = SignatureDefMap()
            for signature, definition in signature_defs.items():
                signatures.signature_def[signature].MergeFromString(definition)
            response.metadata[field].Pack(signatures)
        elif card_json is not None:
            response.metadata[field].Pack(ModelCard(json=card_json))
    return response.SerializeToString()
