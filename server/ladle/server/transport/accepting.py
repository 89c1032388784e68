"""Accepts connections in an event loop, and waits where the system has no descriptor for one."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial

from ladle.server.transport.descriptors import SpareDescriptors
from ladle.server.transport.http.connection import HEAD_TIMEOUT_S

logger = logging.getLogger(__name__)

# At a time, so that those who are connected are not held up.
_AT_ONCE = 64
# How long to leave a listening socket alone after the system had nothing for a connection.
_BACK_OFF_S = 0.1
_LOG_EVERY_S = 1.0
# Descriptors kept for probes: several orchestrators and balancers ask at the same time.
_SPARE = 16


class Acceptor:
    """Accepts connections of one listening socket. Lives in one event loop.

    asyncio's own accepts on at the limit of descriptors: it then logs a traceback for each place
    in the backlog, thousands each second.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        refuse: Callable[[], bytes | None],
        protocol_for_probes: Callable[[Callable[[], None]], asyncio.Protocol],
    ) -> None:
        """Accept from now on; called in the loop's thread.

        Args:
            listening: where callers connect.
            protocol: makes the protocol of a connection.
            tls: put connections behind TLS.
            refuse: returns what to answer a connection that is one too many; None to serve it.
            protocol_for_probes: makes the protocol of a connection that has one of the last
                descriptors; it calls its argument once that is free.
        """
        self._socket = listening
        self._protocol = protocol
        self._tls = tls
        self._refuse = refuse
        self._protocol_for_probes = protocol_for_probes
        self._spare = SpareDescriptors(_SPARE)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._logged = -_LOG_EVERY_S
        self._handshakes: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._loop.add_reader(listening, self.accept)

    def close(self) -> None:
        """Accept no more."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._socket)
            self._spare.close()

    def accept(self) -> None:
        """Accept who waits; the loop calls it when somebody does."""
        for _ in range(_AT_ONCE):
            try:
                connection, protocol = self._accept_one()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._back_off(error)
                return
            connection.setblocking(False)
            answer = self._refuse()
            if answer is not None:
                _refuse(connection, b"" if self._tls else answer)
                continue
            task = self._loop.create_task(self._serve(connection, protocol))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _accept_one(self) -> tuple[socket.socket, Callable[[], asyncio.Protocol]]:
        """Return who waits, and what makes the protocol of the connection."""
        try:
            connection, _address = self._socket.accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._spare.give_up_one():
                raise
            connection, _address = self._socket.accept()
            return connection, partial(self._protocol_for_probes, self._spare.refill)
        self._spare.refill()
        return connection, self._protocol

    async def _serve(
        self, connection: socket.socket, protocol: Callable[[], asyncio.Protocol]
    ) -> None:
        try:
            await self._loop.connect_accepted_socket(
                protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=HEAD_TIMEOUT_S if self._tls else None,
            )
        except OSError:  # and ssl.SSLError: a caller who speaks no TLS, or has gone away
            connection.close()

    def _back_off(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_S:
            self._logged = now
            logger.warning("no connection over HTTP can be accepted now: %s", error.strerror)
        self._loop.remove_reader(self._socket)
        self._loop.call_later(_BACK_OFF_S, self._go_on)

    def _go_on(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._socket, self.accept)


def _refuse(connection: socket.socket, answer: bytes) -> None:
    with connection:
        try:
            connection.send(answer)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has gone already
