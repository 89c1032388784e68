"""The protocol's URLs: one table, with who is meant to call each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from ladle.server.core.access import Kind
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rest.calls import Services
from ladle.server.rest.encodings import DEFLATE, GZIP, Encodings, accepts, never
from ladle.server.rest.open_inference.endpoints import BINARY, Endpoints
from ladle.server.rest.open_inference.requests import parsed_bytes
from ladle.server.rest.request import Endpoint
from ladle.server.rest.routes import Route
from ladle.server.rpc.open_inference.names import model_of

_BOTH = (GZIP, DEFLATE)
_MODEL = "/v2/models/{model}"
_VERSIONS = ("", "/versions/{version}")


@dataclass(frozen=True)
class InferenceRoute(Route):
    """A route of the protocol.

    Its paths are case-sensitive. A name in them is whatever stands between two slashes.
    """

    twin: str = ""
    """The name of the gRPC method, for metrics; empty for probes, which are not counted."""
    about_all: bool = True
    """Whether a path without a model is about all models, and not about none."""
    model_of: Callable[[str], str] = str
    """Returns the model that a name stands for."""
    trailing_slash: bool = False
    """Whether the path may end in a slash."""

    @cached_property
    def api(self) -> str:
        """What metrics call it, in lower case as TensorFlow Serving's REST interface has it."""
        return "infer" if self.twin == "ModelInfer" else self.twin.lower()

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the whole path has to be."""
        texts_and_names = re.split(r"\{(\w+)\}", self.path)
        named = "".join(
            f"(?P<{part}>[^/]+)" if number % 2 else re.escape(part)
            for number, part in enumerate(texts_and_names)
        )
        return re.compile(named + ("/?" if self.trailing_slash else ""))

    def about(self, names: Mapping[str, str]) -> Collection[str] | None:
        """Return the models that a request is about; None for all."""
        model = names.get("model")
        if model is not None:
            return [self.model_of(model)]
        return None if self.about_all else ()


def choose(accepted: str, content_type: str) -> str:
    """Return what an inference answer is compressed to.

    Some clients offer encodings unasked, and floats don't shrink: binary tensors are compressed
    only for who takes one encoding and no other.
    """
    if content_type == BINARY:
        alone = accepted.strip().lower()
        return alone if alone in _BOTH else ""
    return next((encoding for encoding in _BOTH if accepts(accepted, encoding)), "")


_SMALL = Encodings(_BOTH, never)
_TENSORS = Encodings(_BOTH, choose, parsed_bytes)


def open_inference_routes(
    manager: Manager,
    services: Services,
    models: Callable[[], Collection[str]],
    is_ready: Callable[[], bool],
) -> list[Route]:
    """Return the routes.

    Args:
        manager: where the models are.
        services: the methods.
        models: returns the names of the models that are configured.
        is_ready: whether the server as a whole is to get requests.
    """
    ends = Endpoints(manager, services, models, is_ready)

    def route(
        method: str,
        path: str,
        kind: Kind,
        endpoint: Endpoint,
        twin: str = "",
        *,
        encodings: Encodings = _SMALL,
        about_all: bool = True,
        summary: str | None = None,
    ) -> InferenceRoute:
        return InferenceRoute(
            method,
            path,
            kind,
            endpoint,
            summary=in_words(twin) if summary is None else summary,
            encodings=encodings,
            twin=twin,
            about_all=about_all,
            model_of=lambda given: model_of(manager, given),
            trailing_slash=kind is Kind.METADATA and method == "GET",
        )

    open_, metadata, admin = Kind.OPEN, Kind.METADATA, Kind.ADMIN
    found = [
        route("GET", "/v2/health/live", open_, ends.server_live, summary="Server live"),
        route("GET", "/v2/health/ready", open_, ends.server_ready, summary="Server ready"),
        route("GET", "/v2", metadata, ends.server_metadata, "ServerMetadata", about_all=False),
        route("GET", "/v2/models", metadata, ends.list_models, "RepositoryIndex"),
        route("GET", "/v2/models/stats", metadata, ends.model_statistics, "ModelStatistics"),
    ]
    for version in _VERSIONS:
        of = f"{_MODEL}{version}"
        found += [
            route("GET", of, metadata, ends.model_metadata, "ModelMetadata"),
            route("GET", f"{of}/ready", open_, ends.model_ready, summary="Model ready"),
            route(
                *("POST", f"{of}/infer", Kind.PREDICT, ends.infer, "ModelInfer"),
                encodings=_TENSORS,
            ),
            route("GET", f"{of}/config", metadata, ends.model_config, "ModelConfig"),
            route("GET", f"{of}/stats", metadata, ends.model_statistics, "ModelStatistics"),
        ]
    index, models_of = "RepositoryIndex", "/v2/repository/models/{model}"
    found += [
        route("POST", "/v2/repository/index", metadata, ends.repository_index, index),
        route("POST", f"{models_of}/load", admin, ends.load, "RepositoryModelLoad"),
        route("POST", f"{models_of}/unload", admin, ends.unload, "RepositoryModelUnload"),
        route(
            *("POST", "/v2/repository/{repository}/index", admin, ends.no_repositories, index),
            summary="",
        ),
    ]
    for verb, twin in (("load", "RepositoryModelLoad"), ("unload", "RepositoryModelUnload")):
        path = f"/v2/repository/{{repository}}/models/{{model}}/{verb}"
        found.append(route("POST", path, admin, ends.no_repositories, twin, summary=""))
    for path, twin in _refused():
        for method in ("GET", "POST"):
            endpoint = ends.refusing(twin)
            refused = route(method, path, metadata, endpoint, twin, about_all=False, summary="")
            found.append(refused)
    return list(found)


def in_words(twin: str) -> str:
    """Return a method's name as `/openapi.json` shows it: `ModelInfer` is `Model infer`."""
    return "".join(f" {c.lower()}" if c.isupper() and n else c for n, c in enumerate(twin))


def _refused() -> list[tuple[str, str]]:
    """Return the paths of what is not there, and the methods that say so."""
    paths = [
        ("/v2/logging", "LogSettings"),
        ("/v2/trace/setting", "TraceSetting"),
        (f"{_MODEL}/trace/setting", "TraceSetting"),
    ]
    for kind, stem in (("System", "/v2/systemsharedmemory"), ("Cuda", "/v2/cudasharedmemory")):
        for verb in ("Status", "Register", "Unregister"):
            for region in ("", "/region/{region}"):
                paths.append((f"{stem}{region}/{verb.lower()}", f"{kind}SharedMemory{verb}"))
    return paths
