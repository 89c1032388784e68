"""HTTP: uvicorn in a thread with an event loop of its own, under an ASGI application."""

from __future__ import annotations

import json
import logging
import math
import socket
import ssl
import threading
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import uvicorn

from ladle.server.transport.accepting import Acceptor
from ladle.server.transport.addresses import bind, check, in_use
from ladle.server.transport.descriptors import FOR_PROBES
from ladle.server.transport.http_protocol import (
    BUSY,
    BoundedProtocol,
    ConnectionBounds,
    raw_response,
)

logger = logging.getLogger(__name__)

# Longer than load balancers keep idle connections, so that it is they who close them.
_KEEP_ALIVE_S = 75
_BACKLOG = 2048
# How much longer than its grace the loop may take to end.
_MARGIN_S = 2.0


class HttpTransport:
    """Serves an ASGI application on TCP ports. Order of calls: `listen`, `start`, `stop`."""

    def __init__(
        self,
        app: Any,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 4096,
        always: Collection[str] = (),
        reuse_port: bool = False,
    ) -> None:
        """Take what to serve.

        Args:
            app: the application.
            tls: put all ports behind TLS.
            max_connections: how many are served at a time, idle ones included.
            always: paths that are answered on some more connections: probes.
            reuse_port: share the port with other processes that do the same.
        """
        self._reuse_port = reuse_port
        self._sockets: list[socket.socket] = []
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        config.load()
        config.ssl = tls
        bounds = ConnectionBounds(
            most=max_connections, always=frozenset(path.encode() for path in always)
        )
        self._server = _Uvicorn(config, bounds)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._ended = threading.Event()

    def check(self, port: int) -> None:
        """Find out whether a port can be had; nobody can connect yet.

        Raises:
            AddressInUse: It can't be bound.
        """
        check(port, "rest_api_port", reuse_port=self._reuse_port)

    def listen(self, port: int) -> int:
        """Bind a port on all interfaces, IPv6's and IPv4's, and return the port it got.

        Args:
            port: the port; 0 for any that is free.

        Raises:
            AddressInUse: It can't be bound.
        """
        bound = bind(port, "rest_api_port", reuse_port=self._reuse_port)
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
    """Accepts connections in its own way, and says when it takes requests."""

    def __init__(self, config: uvicorn.Config, bounds: ConnectionBounds) -> None:
        super().__init__(config)
        self.up = threading.Event()
        self._bounds = bounds

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        acceptors: list[Any] = [
            Acceptor(listening, self._protocol, self.config.ssl, self._refuse, self._protocol)
            for listening in sockets or []
        ]
        self.servers = acceptors  # uvicorn closes them, and waits for them
        self.started = True
        self.up.set()

    def _protocol(self, ended: Callable[[], None] | None = None) -> BoundedProtocol:
        return BoundedProtocol(
            self._bounds,
            ended,
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )

    def _refuse(self) -> bytes | None:
        if len(self.server_state.connections) < self._bounds.most + FOR_PROBES:
            return None
        if self._bounds.close_oldest():
            return None
        return raw_response(HTTPStatus.SERVICE_UNAVAILABLE, json.dumps({"error": BUSY}).encode())
