from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from fakes import TIMEOUT_S
from transports import MakeTransport

from ladle.server.call import Transport
from ladle.server.transport.addresses import AddressInUse
from ladle.server.transport.unix_socket import make_way


def echo_server(make_transport: MakeTransport) -> Transport:
    return make_transport({"/s/Echo": lambda call: call.respond(call.request)}, max_threads=2)


def echo(channel: grpc.Channel) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/s/Echo")
    return call(b"hello", timeout=TIMEOUT_S)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    # Relative, because a socket's path is short and pytest's folders are deep.
    before = os.getcwd()
    os.chdir(tmp_path)
    yield "socket"
    os.chdir(before)


def test_a_socket_serves(path: str, make_transport: MakeTransport) -> None:
    server = echo_server(make_transport)
    server.listen(f"unix:{path}")
    server.start()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        assert echo(channel) == b"hello"
    server.stop(TIMEOUT_S)


def test_what_a_killed_server_left_is_taken_over(path: str, make_transport: MakeTransport) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)  # and never listened again

    test_a_socket_serves(path, make_transport)


def test_a_living_servers_socket_is_left_to_it(path: str, make_transport: MakeTransport) -> None:
    living = echo_server(make_transport)
    living.listen(f"unix:{path}")
    living.start()
    with pytest.raises(AddressInUse, match="another process listens there"):
        echo_server(make_transport).listen(f"unix:{path}")
    with grpc.insecure_channel(f"unix:{path}") as channel:
        assert echo(channel) == b"hello"
    living.stop(TIMEOUT_S)


def test_other_files_are_left_alone(path: str, make_transport: MakeTransport) -> None:
    Path(path).write_text("precious")
    with pytest.raises(AddressInUse, match="no socket"):
        echo_server(make_transport).listen(f"unix:{path}")
    assert Path(path).read_text() == "precious"


@pytest.mark.parametrize(
    ("wanted", "says"), [("x" * 200, "at most 103 bytes"), ("nowhere/socket", "no folder nowhere")]
)
def test_paths_that_cannot_be_are_told(path: str, wanted: str, says: str) -> None:
    assert says in (make_way(wanted) or "")
