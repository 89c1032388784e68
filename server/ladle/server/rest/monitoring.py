"""The routes for those who watch: metrics for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ladle.server.core.access import Kind
from ladle.server.rest.request import Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Route

# https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_route(path: str, exposition: Callable[[], bytes]) -> Route:
    """Return the route on which all metrics are; making them may block, and so has a thread."""

    async def metrics(_: Request) -> Response:
        text = await asyncio.to_thread(exposition)
        return Response(text, headers={"content-type": _CONTENT_TYPE})

    return Route("GET", path, Kind.METADATA, metrics, "Metrics, for Prometheus")
