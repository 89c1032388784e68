"""The application over HTTP: routes requests, bounds them, answers in JSON whatever goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from ladle.server.core.access import Access, Kind
from ladle.server.core.errors import Cancelled, DeadlineExceeded, Unavailable
from ladle.server.core.observation import (
    UNKNOWN_INFERENCE,
    Observation,
    Observer,
    Unobserved,
)
from ladle.server.limits import Limits
from ladle.server.rest import bodies
from ladle.server.rest.calls import MAX_INLINE_BYTES, Services
from ladle.server.rest.encodings import (
    Encodings,
    compress,
    content_encoding,
    is_worthwhile,
    never,
)
from ladle.server.rest.hosts import only_host, require_allowed
from ladle.server.rest.request import Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Match, Route, Routes, is_open_inference
from ladle.server.rest.status_codes import HttpError, error_response
from ladle.server.rpc.status import as_status
from ladle.server.transport.http.exchange import Exchange, Headers

# How many bytes of a body are JSON, where tensors come after it.
_JSON_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, kw_only=True)
class AppOptions:
    """How the application answers."""

    timeout_s: float = 30.0
    """From a request's first byte to its answer."""
    cors: bool = False
    """Let pages of other origins call the server."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that a request's Host may be, in lower case, `*.name` for those below one.

    Empty: any. Probes may use any name.
    """


class App:
    """Answers requests by its routes. Lives in one event loop."""

    def __init__(
        self,
        routes: Iterable[Route],
        services: Services,
        limits: Limits,
        options: AppOptions | None = None,
        access: Access | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Take what to answer.

        Args:
            routes: all that there is.
            services: whose threads take what is too large for the loop.
            limits: of a body, and of all that is under way.
            options: how to answer.
            access: who may call what; asked before a body is read.
            observer: gets each request about a model, and what looks like one.
        """
        self.routes = Routes(routes)
        self.requests = 0
        """How many have come."""
        self.closing = False
        """Whether to ask callers to take their next request to a new connection."""
        self._services = services
        self._limits = limits
        self._options = options or AppOptions()
        self._access = access or Access()
        self._observer = observer or Unobserved()
        # Without it pages of other origins could send no token.
        self._allowed_headers = f"Content-Type, {_JSON_LENGTH}"
        self._allowed_headers += ", Authorization" * self._access.by_token

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.requests += 1
        observation = Observation("", "REST", b"", exchange.headers.get)
        try:
            response = await self._answer(exchange, observation)
            if observation.api:
                observation.end(response.body, self._observer)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                # The time to drain is over: nobody else cancels the task of a request.
                error = Unavailable("the server is stopping, and has no time for the request")
            status = as_status(error, exchange.path, observation)
            if observation.api or exchange.path[:4].lower() == "/v1/":
                observation.end(status, self._observer)
            response = error_response(status)
            status.clear_traceback()  # by now the frames on its way here hold the body
        if self._options.cors:
            response.headers["access-control-allow-origin"] = "*"
            response.headers["access-control-allow-methods"] = "POST, GET"
            response.headers["access-control-allow-headers"] = self._allowed_headers
            response.headers["access-control-expose-headers"] = _JSON_LENGTH
        if self.closing:
            response.headers["connection"] = "close"
        exchange.respond(response.status, response.headers, response.body)

    async def _answer(self, exchange: Exchange, observation: Observation) -> Response:
        headers = exchange.headers
        if exchange.method == "OPTIONS" and self._options.cors:
            return _preflight(headers)
        match = self._admit(exchange, observation)
        encodings = match.route.encodings
        deadline = time.monotonic() + self._options.timeout_s
        with bodies.Reservation(self._limits) as reservation:
            body = await self._body(exchange, reservation, deadline, encodings)
            observation.request_bytes = len(body)
            try:
                response = await match.route.endpoint(
                    Request(
                        names=match.names,
                        query=_query(exchange.query),
                        headers=headers,
                        body=body,
                        deadline=deadline,
                        local=exchange.local,
                        observation=observation,
                        gone=exchange.gone,
                    )
                )
            finally:
                exchange.gone.cancel()  # whatever waits on the caller's behalf ends
        if encodings.choose is not never:
            await self._compress(response, headers, encodings)
        return response

    def _admit(self, exchange: Exchange, observation: Observation) -> Match:
        """Return the route, if the caller may have what is there."""
        headers = exchange.headers
        authorization = headers.get("authorization")
        host = only_host(headers.every("host"))
        local = exchange.local
        try:
            match = self.routes.find(exchange.method, exchange.path)
        except HttpError:
            if is_open_inference(exchange.path):
                observation.api = UNKNOWN_INFERENCE
            self._access.admit(None, authorization, local=local)
            raise
        observation.api, observation.model = match.route.api, match.names.get("model", "")
        kind = match.route.kind
        grant = self._access.admit(kind, authorization, local=local)
        if kind is not Kind.OPEN:
            require_allowed(host, self._options.allowed_hosts)
            if not grant.every_model:
                grant.require_models(match.route.about(match.names))
        return match

    async def _body(
        self,
        exchange: Exchange,
        reservation: bodies.Reservation,
        deadline: float,
        encodings: Encodings,
    ) -> bytes:
        headers = exchange.headers
        transfer = headers.get("transfer-encoding")
        if transfer is not None and transfer.strip().lower() != "chunked":
            raise HttpError(501, f"Transfer-Encoding: expected chunked, got {transfer!r}")
        try:
            body = await bodies.read(exchange, reservation, deadline, encodings)
        except asyncio.TimeoutError:
            raise DeadlineExceeded(
                "the request did not come in time (--rest_api_timeout_in_ms)"
            ) from None
        if body is None:
            raise Cancelled("the caller went away")
        if "content-encoding" in headers and (
            encoding := content_encoding(headers, encodings.known)
        ):
            body = await self._services.work(bodies.inflate, body, encoding, reservation)
        reservation.take_for_reading(len(body), encodings.parsed_bytes(headers, len(body)))
        return body

    async def _compress(self, response: Response, headers: Headers, encodings: Encodings) -> None:
        body = response.body
        response.headers.setdefault("vary", "Accept-Encoding")
        if not is_worthwhile(len(body)) or "content-encoding" in response.headers:
            return
        accepted = headers.get("accept-encoding", "")
        encoding = encodings.choose(accepted, response.headers.get("content-type", ""))
        if encoding:
            large = len(body) > MAX_INLINE_BYTES
            response.body = (
                await self._services.work(compress, body, encoding)
                if large
                else compress(body, encoding)
            )
            response.headers["content-encoding"] = encoding


def _query(text: str) -> Mapping[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True)) if text else {}


def _preflight(headers: Headers) -> Response:
    origin = headers.get("origin", "")
    if "http://" not in origin and "https://" not in origin:
        raise HttpError(400, "OPTIONS: expected a header Origin with http:// or https://")
    return Response()
