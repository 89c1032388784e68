"""TLS as `--ssl_config_file` sets it up: over TCP and Unix sockets, one-sided and mutual."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from fakes import TIMEOUT_S
from google.protobuf import text_format
from server.conftest import Identities, Identity
from transports import MakeTransport

from ladle.protos.serving_pb import SSLConfig
from ladle.server.transport.credentials import CredentialsError, read_context, read_credentials

Serve = Callable[[SSLConfig], tuple[str, str]]


def written(tmp_path: Path, config: SSLConfig) -> Path:
    path = tmp_path / "ssl.config"
    path.write_text(text_format.MessageToString(config))
    return path


@pytest.fixture
def serve(tmp_path: Path, make_transport: MakeTransport) -> Iterator[Serve]:
    """Serves an echo with a configuration, and returns its two addresses."""
    transports = []

    def serve(config: SSLConfig) -> tuple[str, str]:
        transport = make_transport(
            {"/s/Echo": lambda call: call.respond(call.request)},
            max_threads=2,
            tls=written(tmp_path, config),
        )
        port = transport.listen("127.0.0.1:0")
        transport.listen(f"unix:{tmp_path}/socket")
        transport.start()
        transports.append(transport)
        return f"localhost:{port}", f"unix:{tmp_path}/socket"

    yield serve
    for transport in transports:
        transport.stop(TIMEOUT_S)


def echo(channel: grpc.Channel) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/s/Echo")
    return call(b"hello", timeout=TIMEOUT_S)


def echo_over_tls(address: str, authority: str, client: Identity | None = None) -> bytes:
    credentials = grpc.ssl_channel_credentials(
        authority.encode(),
        client.key.encode() if client else None,
        client.certificate.encode() if client else None,
    )
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(address, credentials, options) as channel:
        return echo(channel)


def test_both_addresses_speak_tls(serve: Serve, identities: Identities) -> None:
    for address in serve(identities.config()):
        assert echo_over_tls(address, identities.authority.certificate) == b"hello"
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            echo(channel)


def test_with_client_verify_only_vouched_for_clients_come_in(
    serve: Serve, identities: Identities
) -> None:
    authority = identities.authority.certificate
    config = identities.config(custom_ca=authority, client_verify=True)
    for address in serve(config):
        assert echo_over_tls(address, authority, identities.client) == b"hello"
        for other in (None, identities.stranger):
            with pytest.raises(grpc.RpcError):
                echo_over_tls(address, authority, other)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"server_key": "/etc/key.pem"}, "server_key: expected the private key of server_cert"),
        ({"server_key": ""}, "server_key: expected the private key of server_cert"),
        ({"server_cert": "/etc/cert.pem"}, "server_cert: expected certificates in PEM"),
        ({"server_cert": ""}, "server_cert: expected certificates in PEM"),
        ({"custom_ca": "é"}, "custom_ca: expected certificates in PEM"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
    ],
)
def test_credentials_of_no_use_are_told_in_one_line(
    tmp_path: Path, identities: Identities, fields: dict[str, object], says: str
) -> None:
    path = written(tmp_path, identities.config(**fields))
    with pytest.raises(CredentialsError) as caught:
        read_credentials(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_room_for_a_temporary_file_is_told_in_one_line(
    tmp_path: Path, identities: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, identities.config())
    assert read_context(path).minimum_version is ssl.TLSVersion.TLSv1_2
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CredentialsError, match=r"temporary file, which .*: No such file") as caught:
        read_context(path)
    assert "\n" not in str(caught.value)


def test_a_key_of_another_certificate_is_noticed(tmp_path: Path, identities: Identities) -> None:
    path = written(tmp_path, identities.config(server_key=identities.stranger.key))
    with pytest.raises(CredentialsError, match="the private key of server_cert"):
        read_credentials(path)


def test_a_mistake_in_the_file_shows_nothing_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "ssl.config"
    path.write_text('client_verify: false\nserver_key: "SECRET" "SECRET\n')
    with pytest.raises(CredentialsError, match="line 2") as caught:
        read_credentials(path)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), (b"\xff", "it is no text")])
def test_a_file_that_cannot_be_read_is_told(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "ssl.config"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match=says):
        read_credentials(path)
