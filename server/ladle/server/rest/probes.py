"""Probes for orchestrators: whether the process is alive, and whether it should get requests."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from ladle.server.core.access import Kind
from ladle.server.rest.request import Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Route
from ladle.server.rest.status_codes import json_response


def probes(is_ready: Callable[[], bool]) -> list[Route]:
    """Return the routes `/livez` and `/readyz`.

    `is_ready` says what the health service says of the server as a whole.
    """

    async def livez(_: Request) -> Response:
        return json_response(orjson.dumps({"status": "alive"}))

    async def readyz(_: Request) -> Response:
        if is_ready():
            return json_response(orjson.dumps({"status": "ready"}))
        return json_response(orjson.dumps({"status": "not ready"}), 503)

    return [
        Route("GET", "/livez", Kind.OPEN, livez, "Whether the process is alive"),
        Route("GET", "/readyz", Kind.OPEN, readyz, "Whether to send requests here"),
    ]
