"""TLS: the credentials in the file behind `--ssl_config_file`."""

from __future__ import annotations

import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
from google.protobuf import text_format

from ladle.protos.services import pool
from ladle.protos.serving_pb import SSLConfig
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.regular_file import read_text

_MAX_BYTES = 1 << 20


class CredentialsError(Exception):
    """The file gives no credentials; the message says why, in one line, and shows no key."""


class Pem(NamedTuple):
    """What a server proves itself with, as PEM. Tests and logs must not print it."""

    certificates: bytes
    """The server's, and those between it and the one that callers know."""
    key: bytes
    authorities: bytes | None
    """Callers need a certificate that one of these has signed; None: callers need none."""

    def __repr__(self) -> str:
        return "Pem(...)"


def read_credentials(path: Path) -> grpc.ServerCredentials:
    """Return what a server proves itself with, and whether it asks the same of its callers.

    The file is an SSLConfig in protobuf's text format, with keys and certificates inlined as PEM.

    Raises:
        CredentialsError: It can't be read, or its PEM is of no use.
    """
    config = _read(path)
    for field, certificates in ("server_cert", config.server_cert), ("custom_ca", config.custom_ca):
        if certificates or field == "server_cert":
            _check_certificates(path, field, certificates)
    if config.client_verify and not config.custom_ca:
        raise CredentialsError(
            f"--ssl_config_file {path}: client_verify needs custom_ca, the certificates of those "
            "who sign the clients'"
        )
    credentials = grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )
    if not _usable(credentials):
        raise CredentialsError(
            f"--ssl_config_file {path}: server_key: expected the private key of server_cert, "
            "in PEM without a passphrase"
        )
    return credentials


def read_pem(path: Path) -> Pem:
    """Return the same credentials as PEM, for a transport with a TLS of its own.

    Raises:
        CredentialsError: The file can't be read, or its PEM is of no use.
    """
    read_credentials(path)  # its checks
    config = _read(path)
    return Pem(
        config.server_cert.encode(),
        config.server_key.encode(),
        config.custom_ca.encode() if config.client_verify else None,
    )


def read_context(path: Path) -> ssl.SSLContext:
    """Return the same credentials for Python's own TLS, for HTTP/1.1.

    Raises:
        CredentialsError: The file can't be read, its PEM is of no use, or there is no room for a
            temporary file.
    """
    read_credentials(path)  # its checks
    config = _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # said to callers who offer HTTP/2 beside it
    # Python takes keys from files alone. The folder is ours alone, and gone in a moment.
    try:
        with tempfile.TemporaryDirectory() as folder:
            pem = Path(folder) / "server.pem"
            pem.touch(mode=0o600)
            pem.write_text(f"{config.server_key}\n{config.server_cert}", encoding="utf-8")
            context.load_cert_chain(pem)
    except ssl.SSLError:
        raise
    except OSError as error:
        raise CredentialsError(
            f"--ssl_config_file {path}: the key can't be written to a temporary file, which "
            f"Python's TLS reads: {error.strerror or error}"
        ) from error
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=config.custom_ca)
    return context


def _read(path: Path) -> SSLConfig:
    try:
        text = read_text(path, _MAX_BYTES)
        return text_format.Parse(text, SSLConfig(), descriptor_pool=pool())
    except InvalidArgument as error:
        reason = error.message
    except text_format.ParseError as error:
        # Its own message quotes the line, which may be one of the key.
        reason = f"no SSLConfig in text format: line {error.GetLine()}"
    raise CredentialsError(f"--ssl_config_file {path}: {reason}")


def _check_certificates(path: Path, field: str, pem: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError):
        raise CredentialsError(
            f"--ssl_config_file {path}: {field}: expected certificates in PEM, not a file's name"
        ) from None


def _usable(credentials: grpc.ServerCredentials) -> bool:
    """Whether gRPC takes them: it looks at key and certificate when it binds, and only then."""
    trial = grpc.server(ThreadPoolExecutor(1))
    try:
        return bool(trial.add_secure_port("127.0.0.1:0", credentials))
    except RuntimeError:
        return False
