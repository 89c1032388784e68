"""Where a whole server listens and how: ports, Unix sockets, TLS, and gRPC's own options."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal
from google.protobuf import text_format
from server.conftest import Identities

from ladle.protos.serving_pb import GetModelStatusRequest
from ladle.server import Config, Server, StartupError

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[Path]:
    """The working folder, with a model in it; a socket's path has to be short."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    before = os.getcwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


@contextmanager
def serving(**flags: object) -> Iterator[Server]:
    flags = {"port": None, "model_name": "m", "drain_grace_seconds": 0.0} | flags
    config = Config(model_base_path="m", **flags)  # type: ignore[arg-type]
    server = Server(config, load=FakeLoader())
    server.start()
    try:
        yield server
    finally:
        server.stop()


def status(channel: grpc.Channel, padding: int = 0) -> bytes:
    request = GetModelStatusRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "x" * padding
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(STATUS)
    return call(request.SerializeToString(), timeout=TIMEOUT_S)


def test_the_socket_answers_beside_the_port() -> None:
    with serving(grpc_socket_path="socket") as server:
        port, socket = server.addresses
        assert socket == "unix:socket"
        for address in (port.replace("0.0.0.0", "127.0.0.1"), socket):
            with grpc.insecure_channel(address) as channel:
                assert status(channel)


def test_the_socket_answers_without_a_port() -> None:
    with serving(grpc_socket_path="socket", port=0) as server:
        assert server.addresses == ("unix:socket",)
        with grpc.insecure_channel("unix:socket") as channel:
            assert status(channel)


def test_the_ssl_config_file_puts_both_behind_tls(identities: Identities) -> None:
    Path("ssl.config").write_text(text_format.MessageToString(identities.config()))
    credentials = grpc.ssl_channel_credentials(identities.authority.certificate.encode())
    options = [("grpc.ssl_target_name_override", "localhost")]
    with serving(grpc_socket_path="socket", ssl_config_file="ssl.config") as server:
        port, socket = server.addresses
        for address in (port.replace("0.0.0.0", "127.0.0.1"), socket):
            with grpc.secure_channel(address, credentials, options) as channel:
                assert status(channel)


def test_an_ssl_config_file_of_no_use_ends_the_start() -> None:
    with pytest.raises(
        StartupError, match=r"--ssl_config_file nowhere\.config: can.t be read: No such file"
    ):
        Server(Config(port=None, model_base_path="m", ssl_config_file="nowhere.config"))


def test_grpcs_own_options_reach_grpc() -> None:
    arguments = "grpc.max_receive_message_length=1000,grpc.primary_user_agent=x"
    with serving(grpc_channel_arguments=arguments) as server:
        address = server.addresses[0].replace("0.0.0.0", "127.0.0.1")
        with grpc.insecure_channel(address) as channel:
            assert status(channel, padding=100)
            with pytest.raises(grpc.RpcError) as caught:
                status(channel, padding=2000)
    assert refusal(caught.value)[0] == "RESOURCE_EXHAUSTED"
