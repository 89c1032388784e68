"""HTTP: uvicorn in a thread with an event loop of its own, under an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ladle.server.transport.addresses import bind, in_use

logger = logging.getLogger(__name__)

# Connections, idle ones included; past so many a request is answered 503.
_MAX_CONNECTIONS = 4096
_MAX_HEAD_BYTES = 64 << 10
# How long a caller may take from a connection's or a request's first byte to the end of its head.
_HEAD_TIMEOUT_S = 10.0
# How long the rest of a body may come in after the answer, which was a refusal then: a caller who
# is cut off at once may never read why.
_REST_TIMEOUT_S = 10.0
# Longer than load balancers keep idle connections, so that it is they who close them.
_KEEP_ALIVE_S = 75
_BACKLOG = 2048
# How much longer than its grace the loop may take to end.
_MARGIN_S = 2.0


class HttpTransport:
    """Serves an ASGI application on TCP ports. Order of calls: `listen`, `start`, `stop`."""

    def __init__(self, app: Any, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: put all ports behind TLS."""
        self._sockets: list[socket.socket] = []
        config = uvicorn.Config(
            app,
            http=_Bounded,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        config.load()
        config.ssl = tls
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._ended = threading.Event()

    def listen(self, port: int) -> int:
        """Bind a port on all interfaces, IPv6's and IPv4's, and return the port it got.

        Args:
            port: the port; 0 for any that is free.

        Raises:
            AddressInUse: It can't be bound.
        """
        bound = bind(port, "rest_api_port")
        try:
            bound.listen(_BACKLOG)
        except OSError as error:
            bound.close()
            raise in_use(port, "rest_api_port", error) from None
        self._sockets.append(bound)
        return int(bound.getsockname()[1])

    def start(self) -> None:
        """Take requests from now on; returns once the loop runs."""
        self._thread.start()
        self._server.up.wait()

    def begin_stop(self, grace_s: float) -> None:
        """Refuse new connections and requests, and give those under way `grace_s` seconds."""
        self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
        self._server.should_exit = True

    def stop(self, grace_s: float) -> None:
        """As `begin_stop`, and return when all have ended, or been cut off."""
        self.begin_stop(grace_s)
        if self._thread.ident is None:
            for bound in self._sockets:
                bound.close()
            return
        if not self._ended.wait(math.ceil(grace_s) + _MARGIN_S):
            logger.warning("the HTTP server did not end in time")

    def _run(self) -> None:
        try:
            self._server.run(self._sockets)
        except Exception:
            logger.exception("the HTTP server failed")
        finally:
            self._server.up.set()
            self._ended.set()


class _Uvicorn(uvicorn.Server):
    """Says when it takes requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


class _Bounded(HttpToolsProtocol):
    """Bounds what comes before a body, in bytes and in time, as uvicorn and httptools don't.

    And in time what of a body comes after its answer: for as long as something comes, uvicorn would
    not close the connection.
    """

    _unread_bytes = 0
    _in_body = False
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._close_after(_HEAD_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        super().data_received(data)
        if self._unread_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._close_after(_HEAD_TIMEOUT_S)

    def on_headers_complete(self) -> None:
        self._in_time()
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_time()
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Of several requests on their way it is the last one's body that is coming in.
        if self._in_body and self.cycle.response_complete:
            self._close_after(_REST_TIMEOUT_S)

    def _close_after(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self.transport.close)

    def _in_time(self) -> None:
        self._unread_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
