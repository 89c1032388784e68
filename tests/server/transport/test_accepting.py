from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from fakes import TIMEOUT_S

from ladle.server.transport.accepting import Acceptor


class Exhausted(socket.socket):
    """A listening socket for whose connections the system has no descriptor, some times."""

    def __init__(self, error: int, times: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.error = error
        self.left = times
        self.bind(("127.0.0.1", 0))
        self.listen()

    def accept(self) -> Any:
        """Accept, once it can be had."""
        if self.left:
            self.left -= 1
            raise OSError(self.error, "the system has none")
        return super().accept()


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


class GreetingProbe(Greeting):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"with a spare one: ")
        super().connection_made(transport)


def for_probes(ended: Callable[[], None]) -> asyncio.Protocol:
    return GreetingProbe()


def greeted(listening: socket.socket, refuse: Callable[[], bytes | None] = lambda: None) -> bytes:
    """What a caller reads of an acceptor on the socket."""

    async def drive() -> bytes:
        acceptor = Acceptor(listening, Greeting, None, refuse, for_probes)
        host, port = listening.getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        try:
            return await asyncio.wait_for(reader.read(), TIMEOUT_S)
        finally:
            writer.close()
            acceptor.close()

    with listening:
        return asyncio.run(drive())


@pytest.mark.parametrize(
    "error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM]
)
def test_a_system_without_descriptors_is_asked_again_later_and_told_of_once(
    error: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ladle.server.transport.accepting._BACK_OFF_S", 0.0)
    monkeypatch.setattr("ladle.server.transport.accepting._LOG_EVERY_S", 1e9)
    with caplog.at_level(logging.WARNING):
        assert greeted(Exhausted(error, 100)) == b"hello"
    (line,) = caplog.messages
    assert line == "no connection over HTTP can be accepted now: the system has none"


def test_after_a_failure_the_listening_socket_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncio's own tries once for each place in the backlog, with a traceback each time."""
    monkeypatch.setattr("ladle.server.transport.accepting._BACK_OFF_S", 1e9)
    listening = Exhausted(errno.EMFILE, 1000)

    async def drive() -> None:
        acceptor = Acceptor(listening, Greeting, None, lambda: None, for_probes)
        _, writer = await asyncio.open_connection(*listening.getsockname())
        while listening.left == 1000:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        writer.close()
        acceptor.close()

    with listening:
        asyncio.run(drive())
    assert listening.left == 998  # once more with a spare descriptor


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_the_last_descriptors_are_for_probes(error: int) -> None:
    assert greeted(Exhausted(error, 1)) == b"with a spare one: hello"


def test_a_connection_too_many_reads_why() -> None:
    assert greeted(Exhausted(0, 0), lambda: b"no place") == b"no place"
