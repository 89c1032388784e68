"""What the protocol's URLs answer: each goes through the service's method of the same meaning."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache, partial
from typing import Any

import orjson

from ladle.protos.inference_pb import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from ladle.server.core.errors import InvalidArgument, NotFound, Unimplemented
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rest.calls import MAX_INLINE_BYTES, Services
from ladle.server.rest.json.text import parse_whole
from ladle.server.rest.open_inference.answers import Body, to_body
from ladle.server.rest.open_inference.messages import as_json
from ladle.server.rest.open_inference.parameters import parameters_of, put
from ladle.server.rest.open_inference.raw import raw_request
from ladle.server.rest.open_inference.requests import JSON_LENGTH, json_length, read, with_tensors
from ladle.server.rest.request import Endpoint, Request
from ladle.server.rest.response import Response
from ladle.server.rest.status_codes import json_response
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.repository import NO_REPOSITORIES

_SERVICE = "/inference.GRPCInferenceService"
BINARY = "application/octet-stream"
"""The content type of an answer with binary tensors."""

# How long JSON before tensors is at most, the model's name included, that is kept as it was read.
_REPEATED_BYTES = 2 << 10


class Endpoints:
    """The endpoints; each answers in the event loop and holds nothing up."""

    def __init__(
        self,
        manager: Manager,
        services: Services,
        models: Callable[[], Collection[str]],
        is_ready: Callable[[], bool],
    ) -> None:
        """Take what answers.

        Args:
            manager: where the models are.
            services: the methods.
            models: returns the names of the models that are configured.
            is_ready: whether the server as a whole is to get requests.
        """
        self._manager = manager
        self._services = services
        self._models = models
        self._is_ready = is_ready

    async def server_live(self, _: Request) -> Response:
        """Answer that the process does."""
        return _json({"live": True})

    async def server_ready(self, _: Request) -> Response:
        """Answer whether the server as a whole serves."""
        ready = self._is_ready()
        return _json({"ready": ready, "live": ready}, 200 if ready else 503)

    async def server_metadata(self, request: Request) -> Response:
        """Answer what ServerMetadata answers."""
        answer = await self._call("ServerMetadata", ServerMetadataRequest(), request)
        return _json(as_json(ServerMetadataResponse.FromString(answer)))

    async def list_models(self, _: Request) -> Response:
        """Answer the names of all models."""
        return _json({"models": sorted(self._models())})

    async def model_ready(self, request: Request) -> Response:
        """Answer what ModelReady answers."""
        name = request.names["model"]
        asked = ModelReadyRequest(name=name, version=request.names.get("version") or "")
        answer = await self._call("ModelReady", asked, request)
        if ModelReadyResponse.FromString(answer).ready:
            return _json({"name": name, "ready": True})
        error = f"Model '{name}' is not ready"
        return _json({"name": name, "ready": False, "error": error}, 503)

    async def model_metadata(self, request: Request) -> Response:
        """Answer what ModelMetadata answers."""
        asked = ModelMetadataRequest(**_named(request))
        answer = await self._call("ModelMetadata", asked, request)
        return _json(as_json(ModelMetadataResponse.FromString(answer)))

    async def model_config(self, request: Request) -> Response:
        """Answer what ModelConfig answers."""
        asked = ModelConfigRequest(**_named(request))
        answer = await self._call("ModelConfig", asked, request)
        return _json(as_json(ModelConfigResponse.FromString(answer).config))

    async def model_statistics(self, request: Request) -> Response:
        """Answer what ModelStatistics answers."""
        asked = ModelStatisticsRequest(**_named(request))
        answer = await self._call("ModelStatistics", asked, request)
        told = [
            {**as_json(of), "response_stats": {}, "memory_usage": []}
            for of in ModelStatisticsResponse.FromString(answer).model_stats
        ]
        return _json({"model_stats": told})

    async def repository_index(self, request: Request) -> Response:
        """Answer what RepositoryIndex answers."""
        ready = _object(request.body).get("ready")
        if not isinstance(ready, bool | None):
            raise InvalidArgument("Unable to parse 'ready': expected true or false")
        asked = RepositoryIndexRequest(ready=bool(ready))
        answer = await self._call("RepositoryIndex", asked, request)
        index = RepositoryIndexResponse.FromString(answer)
        return _json([as_json(model) for model in index.models])

    async def load(self, request: Request) -> Response:
        """Do what RepositoryModelLoad does."""
        name = request.names["model"]
        asked = RepositoryModelLoadRequest(model_name=name)
        given = parameters_of(_object(request.body))
        put(dict.fromkeys(given, ""), asked.parameters)  # what they say does not count
        await self._call("RepositoryModelLoad", asked, request)
        return _json({"name": name, "load": True})

    async def unload(self, request: Request) -> Response:
        """Do what RepositoryModelUnload does."""
        name = request.names["model"]
        parameters_of(_object(request.body))
        asked = RepositoryModelUnloadRequest(model_name=name)
        await self._call("RepositoryModelUnload", asked, request)
        return _json({"name": name, "unload": True})

    async def no_repositories(self, _: Request) -> Response:
        """Refuse to look into a repository of a name."""
        raise Unimplemented(NO_REPOSITORIES)

    def refusing(self, method: str) -> Endpoint:
        """Return the endpoint of a method that refuses whatever it is sent."""

        async def refuse(request: Request) -> Response:
            await self._services.call(f"{_SERVICE}/{method}", b"", request)
            raise AssertionError(f"{method} has answered")

        return refuse

    async def infer(self, request: Request) -> Response:
        """Answer what ModelInfer answers, in JSON or as binary tensors."""
        length = json_length(request.headers, len(request.body))
        if length == 0 and JSON_LENGTH in request.headers:
            return await self._infer_raw(request)
        model, version = request.names["model"], request.names.get("version") or ""
        text = request.body[:length]
        if length < len(request.body) and length + len(model) <= _REPEATED_BYTES:
            parsed = _read_again(text, model, version)
        else:
            parsed = await self._services.sized(
                length, request.deadline, read, text, model, version
            )
        rest = memoryview(request.body)[length:]
        request_id = partial(_request_id, request)
        message = await self._copied(request, with_tensors, parsed, rest, model, request_id)
        answer = await self._services.call(f"{_SERVICE}/ModelInfer", message, request)
        all_binary = all(parsed.outputs.values()) if parsed.outputs else parsed.binary
        return await self._respond(answer, request, parsed.outputs, all_binary, parsed.binary)

    async def _infer_raw(self, request: Request) -> Response:
        """Answer a request whose body is one input's bytes."""
        name, spec = names.parse_known(
            request.names["model"], request.names.get("version") or "", self._manager
        )
        message = ModelInferRequest(
            model_name=name.given,
            model_version=request.names.get("version") or "",
            id=_request_id(request),
        )
        try:
            handle = await self._services.acquire(self._manager, spec, request)
        except NotFound:
            raise names.missing(name, spec, self._manager) from None
        with handle:
            signature = names.find_signature(handle.servable, name.signature)
        whole = await self._copied(request, raw_request, message, request.body, signature)
        answer = await self._services.call(f"{_SERVICE}/ModelInfer", whole, request)
        return await self._respond(answer, request, {}, all_binary=True, binary=True)

    async def _copied(
        self, request: Request, function: Callable[..., bytes], *arguments: object
    ) -> bytes:
        """Return what a function makes of the body, which it copies; in a thread if it is large."""
        if len(request.body) <= MAX_INLINE_BYTES:
            return function(*arguments)
        return await self._services.work(function, *arguments)

    async def _respond(
        self,
        answer: bytes,
        request: Request,
        outputs: dict[str, bool] | Any,
        all_binary: bool,
        binary: bool,
    ) -> Response:
        if not all_binary:
            body = await self._services.sized(
                len(answer), request.deadline, _to_body, answer, outputs, binary
            )
        elif len(answer) <= MAX_INLINE_BYTES:
            body = _to_body(answer, outputs, binary)
        else:
            body = await self._services.work(_to_body, answer, outputs, binary)
        if body.json_length is None:
            return json_response(body.content)
        headers = {JSON_LENGTH: str(body.json_length), "x-content-type-options": "nosniff"}
        return Response(body.content, 200, headers, media_type=BINARY)

    async def _call(self, method: str, message: Any, request: Request) -> bytes:
        path = f"{_SERVICE}/{method}"
        return await self._services.call(path, message.SerializeToString(), request)


# Where tensors come after it, the JSON of a caller is nearly always the same.
_read_again = lru_cache(maxsize=256)(read)


def _to_body(answer: bytes, outputs: dict[str, bool], binary: bool) -> Body:
    return to_body(answer, outputs, binary=binary)


def _named(request: Request) -> dict[str, str]:
    return {
        "name": request.names.get("model") or "",
        "version": request.names.get("version") or "",
    }


def _request_id(request: Request) -> str:
    return request.observation.request_id if request.observation else ""


def _object(body: bytes) -> dict[str, Any]:
    """Return the object that a small body holds; an empty one where it is empty."""
    if not body.strip():
        return {}
    value = parse_whole(body)
    if not isinstance(value, dict):
        raise InvalidArgument("failed to parse the request JSON buffer: expected an object")
    return value


def _json(value: Any, status: int = 200) -> Response:
    return json_response(orjson.dumps(value), status)
