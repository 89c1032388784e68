"""What the REST interface does with models: predict, classify, regress, status, metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson
from google.protobuf import json_format
from google.protobuf.message import Message

from ladle.protos.ladle_pb import ListModelsRequest, ListModelsResponse
from ladle.protos.serving_pb import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelSpec,
    SignatureDefMap,
)
from ladle.server.core.access import Kind
from ladle.server.core.errors import Code, InvalidArgument, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable_id import ServableId
from ladle.server.rest.calls import Services
from ladle.server.rest.json import examples, predict
from ladle.server.rest.json.text import parse
from ladle.server.rest.request import Endpoint, Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Route, of_model
from ladle.server.rest.status_codes import json_response
from ladle.server.rpc.request import find_signature

T = TypeVar("T")

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"
_REPOSITORY = "/ladle.v1.ModelRepository"
_MOST_LISTED = 1000
_MAX_INT64 = (1 << 63) - 1


class Models:
    """The endpoints of models; each call of one goes through the services."""

    def __init__(self, manager: Manager, services: Services) -> None:
        self._manager = manager
        self._services = services

    @property
    def routes(self) -> list[Route]:
        """Their routes."""
        listing = f"{_REPOSITORY}/ListModels" in self._services.methods
        return [
            *of_model("POST", ":predict", Kind.PREDICT, self.predict, "Predict"),
            *of_model("POST", ":classify", Kind.PREDICT, self.classify, "Classify Examples"),
            *of_model("POST", ":regress", Kind.PREDICT, self.regress, "Regress Examples"),
            *of_model("GET", "", Kind.METADATA, self.status, "How its versions stand"),
            *of_model("GET", "/metadata", Kind.METADATA, self.metadata, "Its signatures"),
            *([_listing(self.list)] if listing else []),
        ]

    async def predict(self, request: Request) -> Response:
        """Answer what Predict answers, by row or by column."""
        for last in (False, True):
            servable_id, by_row, message = await self._predict_message(request)
            try:
                answer = await self._services.call(f"{_PREDICTION}/Predict", message, request)
                break
            except ServingError as error:
                # A version that took over just now may want its inputs otherwise.
                if last or error.code is not Code.INVALID_ARGUMENT:
                    raise
                spec = _spec(request)
                with await self._services.acquire(self._manager, spec, request) as handle:
                    if handle.id == servable_id:
                        raise
        to_json = _row_response if by_row else _column_response
        return json_response(await self._sized(request, answer, to_json, answer))

    async def classify(self, request: Request) -> Response:
        """Answer what Classify answers."""
        return await self._examples(request, "Classify", examples.classification_json)

    async def regress(self, request: Request) -> Response:
        """Answer what Regress answers."""
        return await self._examples(request, "Regress", examples.regression_json)

    async def status(self, request: Request) -> Response:
        """Answer what GetModelStatus answers."""
        message = GetModelStatusRequest(model_spec=_spec(request)).SerializeToString()
        answer = await self._services.call(f"{_MODEL}/GetModelStatus", message, request)
        return json_response(orjson.dumps(as_dict(GetModelStatusResponse.FromString(answer))))

    async def metadata(self, request: Request) -> Response:
        """Answer what GetModelMetadata answers of the signatures."""
        wanted = GetModelMetadataRequest(
            model_spec=_spec(request), metadata_field=["signature_def"]
        ).SerializeToString()
        answer = await self._services.call(f"{_PREDICTION}/GetModelMetadata", wanted, request)
        response = GetModelMetadataResponse.FromString(answer)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec = as_dict(response.model_spec)
        return json_response(
            orjson.dumps({"model_spec": spec, "metadata": {"signature_def": as_dict(signatures)}})
        )

    async def list(self, request: Request) -> Response:
        """List the models: upstream has no such thing, and answers 400.

        `?after=NAME&limit=N` asks for a part; there is a limit in any case. If there are more, the
        answer says after which name they come.
        """
        limit = _limit(request.query.get("limit"))
        asked = ListModelsRequest(after=request.query.get("after", ""), limit=limit + 1)
        message = asked.SerializeToString()
        answer = await self._services.call(f"{_REPOSITORY}/ListModels", message, request)
        models = ListModelsResponse.FromString(answer).model
        listed: dict[str, Any] = {"models": [summary(model) for model in models[:limit]]}
        if len(models) > limit:
            listed["more_after"] = models[limit - 1].config.name
        return json_response(orjson.dumps(listed))

    async def _examples(
        self, request: Request, method: str, to_json: Callable[[bytes], bytes]
    ) -> Response:
        message = await self._sized(
            request, request.body, _examples_message, request.body, _spec(request)
        )
        answer = await self._services.call(f"{_PREDICTION}/{method}", message, request)
        return json_response(await self._sized(request, answer, to_json, answer))

    async def _predict_message(self, request: Request) -> tuple[ServableId, bool, bytes]:
        """Return which version the request would reach now, its form, and its message.

        Waits for a model whose first version is on its way.
        """
        spec = _spec(request)
        with await self._services.acquire(self._manager, spec, request) as handle:
            servable_id, model = handle.id, handle.servable
        message = await self._sized(
            request, request.body, predict.read, request.body, model.signatures, spec
        )
        if message.serialized is None:
            name = message.signature_name
            find_signature(model, name)
            raise InvalidArgument(
                f'Serving signature name: "{name}" not found in signature def. '
                f"The model has {sorted(model.signatures)}"
            )
        return servable_id, message.by_row, message.serialized

    async def _sized(
        self, request: Request, data: bytes, function: Callable[..., T], *arguments: Any
    ) -> T:
        return await self._services.sized(len(data), request.deadline, function, *arguments)


def _limit(text: str | None) -> int:
    if text is None:
        return _MOST_LISTED
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:6]) <= _MOST_LISTED:
        raise InvalidArgument(f"limit: expected 1 to {_MOST_LISTED}, got {text[:64]!r}")
    return int(text)


def _listing(endpoint: Endpoint) -> Route:
    return Route("GET", "/v1/models", Kind.METADATA, endpoint, "All models and their versions")


def _examples_message(text: bytes, spec: ModelSpec) -> bytes:
    return examples.to_request(parse(text), spec)


def _row_response(answer: bytes) -> bytes:
    return predict.to_response(answer, by_row=True)


def _column_response(answer: bytes) -> bytes:
    return predict.to_response(answer, by_row=False)


def _spec(request: Request) -> ModelSpec:
    """Return what the URL names.

    Raises:
        InvalidArgument: The version is no int64.
    """
    names = request.names
    spec = ModelSpec(name=names["model"])
    if names.get("version") is not None:
        digits = names["version"].lstrip("0") or "0"
        if len(digits) > len(str(_MAX_INT64)) or int(digits) > _MAX_INT64:
            raise InvalidArgument(f"Failed to convert version: {names['version']} to numeric.")
        spec.version.value = int(digits)
    elif names.get("label") is not None:
        spec.version_label = names["label"]
    return spec


def as_dict(message: Message) -> dict[str, Any]:
    """Return a message as upstream writes it in JSON: proto names, default values and all."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def summary(model: Any) -> dict[str, Any]:
    """Return a ladle.v1.Model in JSON's terms."""
    labels: Mapping[str, int] = model.config.version_labels
    return {
        "name": model.config.name,
        "available": model.available,
        "unloaded": model.unloaded,
        "problem": model.problem,
        "versions": [
            {
                **as_dict(version.status),
                "labels": sorted(k for k, v in labels.items() if v == version.status.version),
                "signatures": sorted(version.signature),
            }
            for version in model.version
        ],
    }
