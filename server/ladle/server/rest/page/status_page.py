"""The status page at `/`, and `/docs`: files that never change, and the JSON that they show."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, TypeAlias

import orjson

from ladle.server.core.access import Kind
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rest.calls import Services
from ladle.server.rest.page.openapi import document
from ladle.server.rest.page.overview import Figures, overview
from ladle.server.rest.request import Endpoint, Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Route
from ladle.server.rest.status_codes import json_response

MergeStatus: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"
"""Makes of one worker's status that of all; blocks a moment."""

# A page needs nothing but the server's files and answers. Pictures that are dropped on it become
# bitmaps without a URL.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_FILES = {
    "/": ("page.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("page", "docs", "dom", "examples", "models", "picture", "server", "snippets")
    },
}


class StatusPage:
    """The endpoints of the pages. Their files say nothing of models, and are open to everybody."""

    def __init__(
        self,
        manager: Manager,
        services: Services,
        names: Callable[[], Collection[str]],
        *,
        is_ready: Callable[[], bool],
        figures: Figures,
        others: Sequence[Route] = (),
        metrics_path: str = "",
        by_token: bool = False,
        transport: str = "",
        merge: MergeStatus | None = None,
    ) -> None:
        """Take what to show.

        Args:
            manager: where the models are.
            services: whose threads gather it.
            names: returns the models that are configured.
            is_ready: whether the server as a whole is to get requests.
            figures: returns how the models do.
            others: what else is answered over HTTP, for `/openapi.json`.
            metrics_path: where metrics are; empty: nowhere.
            by_token: whether callers need a token.
            transport: what serves gRPC; empty where nothing does.
            merge: makes of this worker's status that of all workers; None: there are no others.
        """
        self._manager = manager
        self._services = services
        self._names = names
        self._is_ready = is_ready
        self._figures = figures
        self._others = tuple(others)
        self._metrics_path = metrics_path
        self._by_token = by_token
        self._transport = transport
        self._merge = merge
        self._started = time.monotonic()

    @property
    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            *(Route("GET", path, Kind.OPEN, _file(*file)) for path, file in _FILES.items()),
            Route("GET", "/status.json", Kind.METADATA, self.status),
            Route("GET", "/openapi.json", Kind.METADATA, self.openapi),
        ]

    async def status(self, _: Request) -> Response:
        """Answer what the page shows: the status of all workers."""
        return await self._json(self._merged)

    async def openapi(self, _: Request) -> Response:
        """Answer the OpenAPI document of this server's models."""
        return await self._json(self._openapi)

    async def _json(self, gather: Callable[[], dict[str, Any]]) -> Response:
        response = json_response(await self._services.work(lambda: orjson.dumps(gather())))
        response.headers["cache-control"] = "no-store"
        return response

    def _merged(self) -> dict[str, Any]:
        own = self.own_status()
        return self._merge(own) if self._merge is not None else own

    def own_status(self) -> dict[str, Any]:
        """Return the status of this process, as JSON's own types."""
        server = {
            "ready": self._is_ready(),
            "version": _version(),
            "transport": self._transport,
            "uptime_s": time.monotonic() - self._started,
            "metrics_path": self._metrics_path,
        }
        loaded, unloaded = self._split()
        models = overview(self._manager, loaded, self._figures)
        return {"server": server, "models": models, "unloaded": unloaded}

    def _split(self) -> tuple[list[str], int]:
        """Return the models that are loaded, or should be, and how many others there are."""
        names = self._names()
        loaded = sorted(name for name in names if not self._manager.is_unloaded(name))
        return loaded, len(names) - len(loaded)

    def _openapi(self) -> dict[str, Any]:
        models = overview(self._manager, self._split()[0], dict)
        return document(self._others, models, version=_version(), by_token=self._by_token)


def _file(name: str, media_type: str) -> Endpoint:
    content = (files("ladle.server.rest.page") / "files" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    return answer


def _version() -> str:
    try:
        return version("ladle")
    except PackageNotFoundError:
        return "of its sources"
