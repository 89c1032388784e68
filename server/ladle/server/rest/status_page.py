"""The status page at `/`: three files that never change, and the JSON that they show."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

import orjson
from starlette.responses import Response

from ladle.server.core.access import Kind
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rest.calls import Services
from ladle.server.rest.overview import Figures, overview
from ladle.server.rest.request import Endpoint, Request
from ladle.server.rest.routes import Route
from ladle.server.rest.status_codes import json_response

# The page needs nothing but its own files and the server's answers. Pictures that are dropped on
# it become bitmaps without a URL.
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
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class StatusPage:
    """The endpoints of the page. Its files say nothing of models, and are open to everybody."""

    def __init__(
        self,
        manager: Manager,
        services: Services,
        names: Callable[[], Collection[str]],
        *,
        is_ready: Callable[[], bool],
        figures: Figures,
    ) -> None:
        """Take what to show.

        Args:
            manager: where the models are.
            services: whose threads gather it.
            names: returns the models that are configured.
            is_ready: whether the server as a whole is to get requests.
            figures: returns how the models do.
        """
        self._manager = manager
        self._services = services
        self._names = names
        self._is_ready = is_ready
        self._figures = figures
        self._started = time.monotonic()

    @property
    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            *(Route("GET", path, Kind.OPEN, _file(*file)) for path, file in _FILES.items()),
            Route("GET", "/status.json", Kind.METADATA, self.status),
        ]

    async def status(self, _: Request) -> Response:
        """Answer what the page shows."""
        response = json_response(await self._services.work(self._gather))
        response.headers["cache-control"] = "no-store"
        return response

    def _gather(self) -> bytes:
        server = {
            "ready": self._is_ready(),
            "version": _version(),
            "uptime_s": time.monotonic() - self._started,
        }
        models = overview(self._manager, sorted(self._names()), self._figures)
        return orjson.dumps({"server": server, "models": models})


def _file(name: str, media_type: str) -> Endpoint:
    content = (files("ladle.server.rest") / "page" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    return answer


def _version() -> str:
    try:
        return version("ladle")
    except PackageNotFoundError:
        return "of its sources"
