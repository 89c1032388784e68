"""TLS, tokens, and gRPC's channel options."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import grpc

from ladle.client.errors import Unauthenticated

ChannelOptions: TypeAlias = "Sequence[tuple[str, str | int | bool]]"

Token: TypeAlias = "str | os.PathLike[str] | Callable[[], str]"
"""A bearer token: text; the path of a file, which is read again when it changes; or a function,
which is called for each call, in the thread or task that makes the call."""

# gRPC retries a broken connection after one second by default. These values retry it sooner, and at
# least every five seconds.
_RECONNECT = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 5_000,
}
_KEEPALIVE_TIMEOUT_MS = 10_000
# Health checking only comes with round_robin. Servers without it count as healthy.
_FLEET_SERVICE_CONFIG = (
    '{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}'
)


@dataclass(frozen=True, kw_only=True)
class TLS:
    """How client and server verify each other; PEM files or their content."""

    ca: str | os.PathLike[str] | bytes | None = None
    """The certificate authorities to trust; None for those that gRPC brings."""
    certificate: str | os.PathLike[str] | bytes | None = None
    """This client's certificate with its chain, if the server requires one (mTLS)."""
    key: str | os.PathLike[str] | bytes | None = field(default=None, repr=False)
    """The private key of `certificate`."""
    server_name: str | None = None
    """The name in the server's certificate, if it differs from the address."""

    def __post_init__(self) -> None:
        """Refuse half a pair."""
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS: expected both certificate and key, or neither")

    def read(self) -> ReadTLS:
        """Read the files.

        Raises:
            OSError: A file can't be read.
        """
        return ReadTLS(_content(self.ca), _content(self.certificate), _content(self.key))


class ReadTLS(NamedTuple):
    """The content of a TLS's files."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca,
            private_key=self.key,
            certificate_chain=self.certificate,
        )


def is_in_fleet(address: str, addresses: Sequence[str]) -> bool:
    """Return whether there may be several servers, so that unhealthy ones can be avoided."""
    return len(addresses) > 1 or is_several(address)


def is_several(address: str) -> bool:
    """Return whether an address may stand for several servers; each call goes to one of them."""
    return "," in address or address.startswith("dns:")


def channel_options(
    *,
    in_fleet: bool,
    is_local: bool,
    connections: int,
    max_message_bytes: int,
    keepalive_s: float,
    server_name: str | None,
    given: ChannelOptions,
) -> list[tuple[str, str | int | bool]]:
    """Return the options of one channel; options in `given` replace ladle's own."""
    own: dict[str, str | int | bool] = {
        "grpc.max_receive_message_length": max_message_bytes,
        "grpc.max_send_message_length": max_message_bytes,
        "grpc.keepalive_time_ms": round(keepalive_s * 1000),
        "grpc.keepalive_timeout_ms": _KEEPALIVE_TIMEOUT_MS,
        **_RECONNECT,
    }
    if is_local:  # a proxy of the environment can't reach this machine's loopback or sockets
        own["grpc.enable_http_proxy"] = 0
    if in_fleet:
        own["grpc.service_config"] = _FLEET_SERVICE_CONFIG
    if connections > 1:  # else channels of equal options would share one
        own["grpc.use_local_subchannel_pool"] = 1
    if server_name is not None:
        own["grpc.ssl_target_name_override"] = server_name
    return [*(own | dict(given)).items()]


class BearerToken:
    """The authorization header of each call."""

    def __init__(self, token: Token) -> None:
        if isinstance(token, str):
            self._read: Callable[[], str] = lambda: token
            _header(token)
        elif callable(token):
            self._read = token
        else:
            self._read = _TokenFile(token)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the header.

        Raises:
            Unauthenticated: The token can't be read now.
        """
        try:
            token = self._read()
        except Exception as error:
            raise Unauthenticated(f"no token could be had: {error}") from error
        try:
            return _header(token)
        except ValueError as error:
            raise Unauthenticated(str(error)) from None


class _TokenFile:
    """Reads a file again when it has changed. Thread-safe."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._known: tuple[tuple[int, int, int], str] | None = None

    def __call__(self) -> str:
        about = os.stat(self._path)
        stamp = (about.st_mtime_ns, about.st_size, about.st_ino)
        if self._known is None or self._known[0] != stamp:
            with open(self._path, encoding="utf-8") as file:
                self._known = (stamp, file.read().strip())
        return self._known[1]


def _header(token: str) -> tuple[tuple[str, str], ...]:
    # Its value stays out of the message, which may end up in a log.
    if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()):
        raise ValueError("token: expected printable ASCII text, got something else or nothing")
    return (("authorization", f"Bearer {token}"),)


def _content(pem: str | os.PathLike[str] | bytes | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    with open(pem, "rb") as file:
        return file.read()
