"""TLS and mTLS, against a server that insists on them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Handler, image_version

from ladle.client import TLS, Retry, Unavailable

ONCE = Retry(max_attempts=1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate that vouches for itself, for the name models.test, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=models.test"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=DNS:models.test"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextmanager
def secured(certificate: Path, key: Path, *, wants_clients: bool) -> Iterator[str]:
    pair = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_server_credentials(
        [pair], certificate.read_bytes() if wants_clients else None, wants_clients
    )
    with ThreadPoolExecutor(2) as executor:
        server = grpc.server(
            executor,
            handlers=[Handler(FakeServing({1: image_version(255)}), lambda _: None)],
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("client_class", CLIENTS)
def test_the_certificate_shows_the_server(
    client_class: Any, certificate: tuple[Path, Path]
) -> None:
    with secured(*certificate, wants_clients=False) as address:
        known = TLS(ca=certificate[0], server_name="models.test")
        with client_class(address, tls=known, token="secret") as client:
            assert client.status("m")[0].version == 1
        with (
            client_class(address, tls=TLS(ca=certificate[0]), retry=ONCE) as client,
            pytest.raises(Unavailable),
        ):
            client.status("m")
        with client_class(address, tls=True, retry=ONCE) as client, pytest.raises(Unavailable):
            client.status("m")
        with client_class(address, retry=ONCE) as client, pytest.raises(Unavailable):
            client.status("m")


@pytest.mark.parametrize("client_class", CLIENTS)
def test_the_client_is_known_by_its_own(client_class: Any, certificate: tuple[Path, Path]) -> None:
    path, key = certificate
    with secured(path, key, wants_clients=True) as address:
        ca, name = path.read_bytes(), "models.test"
        mutual = TLS(ca=ca, server_name=name, certificate=path, key=key)
        with client_class(address, tls=mutual) as client:
            assert client.health() is True
        one_sided = TLS(ca=ca, server_name=name)
        with client_class(address, tls=one_sided, retry=ONCE) as client, pytest.raises(Unavailable):
            client.health()


def test_half_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="TLS: expected both certificate and key, or neither"):
        TLS(certificate="client.pem")


def test_a_file_that_is_not_there_is_told_at_once() -> None:
    for client_class in CLIENTS:
        with pytest.raises(FileNotFoundError, match=r"no-such\.pem"):
            client_class("127.0.0.1:1", tls=TLS(ca="no-such.pem"))
