from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

import pytest
from transports import TRANSPORTS, MakeTransport, require

from ladle.protos.serving_pb import SSLConfig


@dataclass(frozen=True)
class Identity:
    """A private key and the certificate that goes with it, as PEM."""

    key: str
    certificate: str


@dataclass(frozen=True)
class Identities:
    """A certificate authority, those that it vouches for, and one that it doesn't."""

    authority: Identity
    server: Identity
    client: Identity
    stranger: Identity

    def config(self, **fields: object) -> SSLConfig:
        """The server's SSLConfig, with some fields changed."""
        config = SSLConfig(server_key=self.server.key, server_cert=self.server.certificate)
        for name, value in fields.items():
            setattr(config, name, value)
        return config


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("identities")

    def make(name: str, *signed_by: str) -> Identity:
        command = (
            f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
            f"-subj /CN={name} -keyout {name}.key -out {name}.pem "
            "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 "
            + (
                # rustls takes no authority for a caller.
                "-addext basicConstraints=critical,CA:FALSE"
                if signed_by
                # Python 3.13 takes no authority without it.
                else "-addext keyUsage=critical,digitalSignature,keyCertSign"
            )
        )
        command_line = [*command.split(), *signed_by]
        subprocess.run(command_line, cwd=folder, check=True, capture_output=True)
        return Identity((folder / f"{name}.key").read_text(), (folder / f"{name}.pem").read_text())

    authority = make("authority")
    by_authority = ("-CA", "authority.pem", "-CAkey", "authority.key")
    return Identities(
        authority,
        make("server", *by_authority),
        make("client", *by_authority),
        make("stranger"),
    )


@pytest.fixture(params=sorted(TRANSPORTS))
def transport_name(request: pytest.FixtureRequest) -> str:
    """The name of a transport; each test that asks for one runs against all that there are."""
    require(request.param)
    return str(request.param)


@pytest.fixture
def make_transport(transport_name: str) -> MakeTransport:
    """Makes transports of that name."""
    return TRANSPORTS[transport_name]
