"""HTTP on TCP ports, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from ladle.server.transport.accepting import Acceptor
from ladle.server.transport.addresses import bind, check, in_use
from ladle.server.transport.descriptors import FOR_PROBES
from ladle.server.transport.http.answers import too_many
from ladle.server.transport.http.connection import HttpConnection
from ladle.server.transport.http.connections import Connections
from ladle.server.transport.http.exchange import Serve

logger = logging.getLogger(__name__)

_BACKLOG = 2048
# How much longer than its grace the loop may take to end.
_MARGIN_S = 2.0
# What requests that are cut off have of that, to say so.
_LAST_WORDS_S = 1.0


class HttpTransport:
    """Serves an application on TCP ports. Order of calls: `listen`, `start`, `stop`."""

    def __init__(
        self,
        serve: Serve,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 4096,
        always: Collection[str] = (),
        reuse_port: bool = False,
    ) -> None:
        """Take what to serve.

        Args:
            serve: the application.
            tls: put all ports behind TLS.
            max_connections: how many are served at a time, idle ones included.
            always: paths that are answered on some more connections: probes.
            reuse_port: share the port with other processes that do the same.
        """
        self._serve = serve
        self._tls = tls
        self._reuse_port = reuse_port
        self._sockets: list[socket.socket] = []
        self._connections = Connections(most=max_connections, always=always)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._up = threading.Event()
        self._ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stops = asyncio.Event()  # set again when the grace of a stop changes
        self._stop_by: float | None = None  # the monotonic time at which a stop cuts requests off

    def check(self, port: int) -> None:
        """Find out whether a port can be had; nobody can connect yet.

        Raises:
            AddressInUse: It can't be bound.
        """
        check(port, "rest_api_port", reuse_port=self._reuse_port)

    def listen(self, port: int, descriptor: int | None = None) -> int:
        """Bind a port on all interfaces, IPv6's and IPv4's, and return the port it got.

        Args:
            port: the port; 0 for any that is free.
            descriptor: of a socket that is bound already, to listen on instead; it belongs to the
                transport from now on.

        Raises:
            AddressInUse: It can't be bound.
        """
        if descriptor is not None:
            bound = socket.socket(fileno=descriptor)
        else:
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
        self._up.wait()

    def begin_stop(self, grace_s: float) -> None:
        """Refuse new connections and requests, and give those under way `grace_s` seconds."""
        self._stop_by = time.monotonic() + grace_s
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stops.set)

    def stop(self, grace_s: float) -> None:
        """As `begin_stop`, and return when all have ended, or been cut off."""
        self.begin_stop(grace_s)
        if self._thread.ident is None:
            for bound in self._sockets:
                bound.close()
            return
        if not self._ended.wait(grace_s + _MARGIN_S):
            logger.warning("the HTTP server did not end in time")

    def _run(self) -> None:
        try:
            asyncio.run(self._accept_until_stopped())
        except Exception:
            logger.exception("the HTTP server failed")
        finally:
            self._up.set()
            self._ended.set()

    async def _accept_until_stopped(self) -> None:
        self._loop = asyncio.get_running_loop()
        acceptors = [
            Acceptor(listening, self._connection, self._tls, self._refuse, self._connection)
            for listening in self._sockets
        ]
        self._up.set()
        if self._stop_by is None:
            await self._stops.wait()
        for acceptor in acceptors:
            acceptor.close()
        for listening in self._sockets:
            listening.close()
        self._connections.stop()
        await self._drain()

    async def _drain(self) -> None:
        """Return when all connections have ended; cut off what outlasts the grace."""
        connections = self._connections
        while (left := self._left_s()) > 0:
            self._stops.clear()
            ended = asyncio.ensure_future(connections.ended(left))
            changed = asyncio.ensure_future(self._stops.wait())
            await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            changed.cancel()
            if not connections.open:
                return
        tasks = list(connections.tasks)
        for task in tasks:
            task.cancel()
        if tasks:  # they say so to their callers
            await asyncio.wait(tasks, timeout=_LAST_WORDS_S)
        await connections.ended(_LAST_WORDS_S / 2)
        for connection in list(connections.open):
            connection.abort()

    def _left_s(self) -> float:
        assert self._stop_by is not None
        return self._stop_by - time.monotonic()

    def _connection(self, ended: Callable[[], None] | None = None) -> HttpConnection:
        return HttpConnection(self._serve, self._connections, ended)

    def _refuse(self) -> bytes | None:
        connections = self._connections
        if len(connections.open) < connections.most + FOR_PROBES or connections.close_oldest():
            return None
        return too_many()
