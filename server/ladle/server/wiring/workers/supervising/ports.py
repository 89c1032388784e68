"""The ports that workers share: the supervisor binds them, so that they stay whoever dies.

Workers get HTTP's socket, and gRPC's where the native transport serves it, and listen on it: all
have one queue of connections, and none in it is lost with a worker. grpcio takes no socket, so its
workers bind the port once more (SO_REUSEPORT): the system gives each its part of the connections.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ladle.server.config import Config
from ladle.server.transport.addresses import bind, check


@dataclass(frozen=True)
class SharedPorts:
    """Ports that are bound, and nobody listens on yet."""

    grpc: socket.socket
    http: socket.socket | None
    grpc_is_passed: bool
    """Whether workers listen on gRPC's socket itself."""

    @property
    def grpc_port(self) -> int:
        """The number of gRPC's port."""
        return int(self.grpc.getsockname()[1])

    @property
    def http_port(self) -> int:
        """The number of HTTP's port; 0 where there is none."""
        return int(self.http.getsockname()[1]) if self.http is not None else 0

    @property
    def addresses(self) -> list[str]:
        """Where callers find the workers."""
        return [
            f"0.0.0.0:{self.grpc_port}",
            *([f"http://0.0.0.0:{self.http_port}"] if self.http is not None else []),
        ]

    @property
    def passed(self) -> dict[str, socket.socket]:
        """The sockets that workers get."""
        passed = {"grpc": self.grpc} if self.grpc_is_passed else {}
        return passed | ({"http": self.http} if self.http is not None else {})

    def close(self) -> None:
        """Leave the ports to the workers that have them."""
        for bound in (self.grpc, self.http):
            if bound is not None:
                bound.close()


def bind_ports(config: Config, transport: str) -> SharedPorts:
    """Bind the ports that a configuration names.

    Raises:
        AddressInUse: One can't be had.
    """
    is_passed = transport == "native"
    if not is_passed and not config.reuse_port and config.port:
        # With SO_REUSEPORT it could be bound beside a server that is none of ours.
        check(config.port, "port")
    grpc = bind(config.port or 0, "port", reuse_port=config.reuse_port or not is_passed)
    if config.rest_api_port == 0:
        return SharedPorts(grpc, None, is_passed)
    try:
        http = bind(config.rest_api_port or 0, "rest_api_port", reuse_port=config.reuse_port)
    except BaseException:
        grpc.close()
        raise
    return SharedPorts(grpc, http, is_passed)
