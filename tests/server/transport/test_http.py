"""HTTP's own bounds, over raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fakes import PATIENCE_S

from ladle.server.transport.addresses import AddressInUse
from ladle.server.transport.http import HttpTransport


class Application:
    """Answers when it is let to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.entered.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class Served:
    """An application on a port."""

    def __init__(self) -> None:
        self.app = Application()
        self.transport = HttpTransport(self.app)
        self.port = self.transport.listen(0)
        self.transport.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def answer_to(self, *pieces: bytes) -> bytes:
        """All that comes until the server closes the connection."""
        with self.connect() as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:
                    break  # it has closed already
            return read_all(connection)


def read_answer(connection: socket.socket) -> None:
    """Read one answer, and nothing beyond it."""
    received = b""
    while not received.endswith(b"ok"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.transport.stop(0)


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_requests_are_answered(served: Served) -> None:
    assert served.answer_to(GET + b"\r\n").endswith(b"\r\n\r\nok")


def test_ipv6_is_served_on_the_same_port(served: Served) -> None:
    try:
        connection = socket.create_connection(("::1", served.port), PATIENCE_S)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with connection:
        connection.sendall(GET + b"\r\n")
        assert read_all(connection).endswith(b"ok")


def test_a_head_without_end_is_cut_off(served: Served) -> None:
    served.app.entered.clear()
    line = b"X: " + b"x" * 1000 + b"\r\n"
    answer = served.answer_to(GET, *[line] * 500)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert not served.app.entered.is_set()


def test_a_body_is_no_head(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
    assert served.answer_to(head, b"x" * 300_000).endswith(b"ok")


def test_the_rest_of_a_body_comes_soon_after_the_answer_or_not_at_all(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a refusal: a byte now and then would keep the connection for ever."""
    monkeypatch.setattr("ladle.server.transport.http._REST_TIMEOUT_S", 0.05)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        read_answer(connection)
        until = time.monotonic() + PATIENCE_S
        connection.settimeout(0.01)
        while time.monotonic() < until:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the connection is still open")


def test_a_connection_goes_on_after_a_body_that_came_late(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        read_answer(connection)
        connection.sendall(b"12345" + GET + b"\r\n")
        assert read_all(connection).endswith(b"ok")


def test_what_is_no_http_is_refused(served: Served) -> None:
    assert served.answer_to(b"\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_answers_are_not_held_back_by_nagle(served: Served) -> None:
    """asyncio switches it off where it knows that the socket speaks TCP."""
    assert all(bound.proto == socket.IPPROTO_TCP for bound in served.transport._sockets)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"can't listen on port {port}: .*in use"):
            HttpTransport(Application()).listen(port)


def test_a_stop_lets_what_is_under_way_finish() -> None:
    served = Served()
    served.app.go_on.clear()
    with served.connect() as connection, served.connect() as idle:
        connection.sendall(GET + b"\r\n")
        assert served.app.entered.wait(PATIENCE_S)
        stopping = threading.Thread(target=served.transport.stop, args=(PATIENCE_S,))
        stopping.start()
        assert read_all(idle) == b""
        served.app.go_on.set()
        assert read_all(connection).endswith(b"ok")
        stopping.join()
    with pytest.raises(OSError, match="refused"):
        served.connect()


def test_a_stop_cuts_off_what_outlasts_its_grace() -> None:
    served = Served()
    served.app.go_on.clear()
    with served.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert served.app.entered.wait(PATIENCE_S)
        served.transport.stop(0)
        served.app.go_on.set()
        assert b"ok" not in read_all(connection)


def test_a_server_that_never_started_can_be_stopped() -> None:
    transport = HttpTransport(Application())
    port = transport.listen(0)
    transport.stop(0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)
