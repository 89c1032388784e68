"""How canonical codes and errors look over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from ladle.server.core.errors import Code, ServingError
from ladle.server.rest.response import Response

# util/net_http upstream: ToHTTPStatusCode.
_HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


class HttpError(ServingError):
    """What is wrong with a request as HTTP; it has no canonical code, but a status of its own."""

    code = Code.INVALID_ARGUMENT

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def http_status(error: ServingError) -> int:
    """Return the HTTP status that an error is answered with."""
    return error.status if isinstance(error, HttpError) else _HTTP_STATUS[error.code]


def error_response(error: ServingError) -> Response:
    """Return upstream's JSON for an error, `{"error": "..."}`, under its status."""
    headers = dict(error.headers) if isinstance(error, HttpError) else {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if error.code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return json_response(orjson.dumps({"error": error.message}), http_status(error), headers)


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response that carries JSON text, which no browser takes for a page."""
    response = Response(body, status, headers, "application/json")
    response.headers["x-content-type-options"] = "nosniff"
    return response
