"""One HTTP connection: uvicorn's protocol, with bounds on what comes before and after a body."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD_BYTES = 64 << 10
# How long a caller may take from a connection's or a request's first byte to the end of its head.
HEAD_TIMEOUT_S = 10.0
# How long the rest of a body may come in after the answer, which was a refusal then: a caller who
# is cut off at once may never read why.
_REST_TIMEOUT_S = 10.0
BUSY = "the server has as many connections as it takes (--rest_api_max_connections)"


@dataclass(frozen=True, kw_only=True)
class ConnectionBounds:
    """How many connections are served, and what is served beyond them. Lives in one event loop."""

    most: int
    """Connections, idle ones included; on others a request is answered 503."""
    always: Collection[bytes] = ()
    """Paths that are served on those too: an orchestrator's probes."""
    idle: dict[BoundedProtocol, None] = field(default_factory=dict, init=False)
    """Connections beyond `most` without a request, the oldest first."""

    def close_oldest(self) -> bool:
        """Close a connection that keeps others out and asks for nothing; False if none does."""
        for protocol in self.idle:
            protocol.transport.abort()
            del self.idle[protocol]
            return True
        return False


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what comes before a body, in bytes and in time, as uvicorn and httptools don't.

    And in time what of a body comes after its answer: for as long as something comes, uvicorn would
    not close the connection. An `Upgrade` is passed over, as RFC 9110 (7.8) lets a server do.
    """

    _unread_bytes = 0
    _in_head = False
    _in_body = False
    _ignores_upgrade = False
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self,
        bounds: ConnectionBounds,
        ended: Callable[[], None] | None = None,
        **uvicorns: Any,
    ) -> None:
        """Take what is bounded.

        Args:
            bounds: of all connections.
            ended: called once the connection's descriptor is free; with it the connection is for
                probes alone.
            uvicorns: what uvicorn gives its protocol.
        """
        super().__init__(**uvicorns)
        self._bounds = bounds
        self._ended = ended
        self._answers = self.app

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, not for ever."""
        super().connection_made(transport)
        self._close_after(HEAD_TIMEOUT_S)
        if self._ended is not None or len(self.connections) > self._bounds.most:
            self._bounds.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._in_time()
        self._bounds.idle.pop(self, None)
        super().connection_lost(exc)
        if self._ended is not None:
            self.loop.call_soon(self._ended)  # asyncio closes the socket after this

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self._unread_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._in_head:  # most heads come in one piece, and need no timer
            self._close_after(HEAD_TIMEOUT_S)
        if self._unread_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def _parse(self, data: bytes) -> None:
        pieces: list[bytes | memoryview] = [data]  # the next one last
        while pieces:
            piece = pieces.pop()
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser leaves the body to another protocol. A request that says the same
                # without `Upgrade` keeps its body, whatever part of it has come.
                self._ignores_upgrade = False
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("The server is no proxy: it takes no CONNECT.")
                    return
                # What follows is not copied: many requests in one piece would each copy it again.
                pieces += [memoryview(piece)[upgrade.args[0] :], self._head_without_upgrade()]
                self.parser = httptools.HttpRequestParser(self)
                # As uvicorn has it: what comes after a last request takes away no answer to it.
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % pair for pair in self.headers if pair[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close the connection."""
        body = json.dumps({"error": msg}).encode()
        self.transport.write(raw_response(HTTPStatus.BAD_REQUEST, body))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Note that a head has begun, whose rest is not waited for for ever."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """Start the application, or answer that there are too many connections."""
        if self.parser.should_upgrade():
            self._ignores_upgrade = True
            return
        self._in_time()
        self._in_body = True
        self._bounds.idle.pop(self, None)
        self.app = self._answers if self._is_served() else answer_busy
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Hand over a piece of the body: it is no part of a head."""
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Say that the body is whole."""
        if self._ignores_upgrade:
            return
        self._in_time()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the rest of a body that nobody reads, not for ever."""
        super().on_response_complete()
        if self._ended is not None:
            self.transport.close()  # the next probe needs the descriptor
        # Of several requests on their way it is the last one's body that is coming in.
        if self._in_body and self.cycle.response_complete:
            self._close_after(_REST_TIMEOUT_S)

    def _is_served(self) -> bool:
        if self._ended is None and len(self.connections) <= self._bounds.most:
            return True
        return self.url.partition(b"?")[0] in self._bounds.always

    def _close_after(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self.transport.close)

    def _in_time(self) -> None:
        self._in_head = False
        self._unread_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def raw_response(status: HTTPStatus, body: bytes) -> bytes:
    """Return an answer in JSON after which the connection is closed."""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        "retry-after: 1\r\n"
        "connection: close\r\n\r\n"
    ).encode() + body


async def answer_busy(scope: Any, receive: Any, send: Any) -> None:
    """Answer 503, as an ASGI application."""
    body = json.dumps({"error": BUSY}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
