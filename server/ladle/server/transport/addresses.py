"""Addresses to listen on: binding a TCP port, and finding out early what can't be had."""

from __future__ import annotations

import errno
import socket

from ladle.server.transport import unix_socket

# A kernel without IPv6, or an interface without an address of it.
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class AddressInUse(Exception):
    """The address can't be had; the message says which and why."""


def check_address(address: str, *, reuse_port: bool = False) -> None:
    """Find out whether gRPC can have an address, without listening there.

    Args:
        address: `0.0.0.0:8500`, `unix:/path`, or `fd:5` for a socket that is bound already. Port 0
            stands for any free one.
        reuse_port: the port may be shared, so nothing is found out about it.

    Raises:
        AddressInUse: The address can't be had.
    """
    path = address.removeprefix("unix:")
    if path != address:
        make_way(path)
    elif not reuse_port and not address.startswith("fd:"):
        check(int(address.rpartition(":")[2]), "port")


def make_way(path: str) -> None:
    """Remove a Unix socket that nobody listens on any more.

    Raises:
        AddressInUse: Something else is in the way.
    """
    if problem := unix_socket.make_way(path):
        raise AddressInUse(f"can't listen on unix:{path}: {problem}")


def check(port: int, flag: str, *, reuse_port: bool = False) -> None:
    """Find out whether a port can be had, without listening there; as `bind`."""
    bind(port, flag, reuse_port=reuse_port).close()


def bind(port: int, flag: str, *, reuse_port: bool = False) -> socket.socket:
    """Bind a port on all interfaces, IPv6's and IPv4's; nobody can connect before it listens.

    Args:
        port: the port; 0 for any that is free.
        flag: what it was asked for by, without the dashes.
        reuse_port: share the port with other sockets that say the same (SO_REUSEPORT).

    Raises:
        AddressInUse: It can't be bound.
    """
    try:
        return _bind(port, reuse_port)
    except OSError as error:
        raise in_use(port, flag, error) from None


def in_use(port: int, flag: str, error: OSError) -> AddressInUse:
    """Return the error of a port that can't be had."""
    reason = error.strerror or str(error)
    return AddressInUse(f"can't listen on port {port}: {reason}; --{flag}=auto finds a free one")


def _bind(port: int, reuse_port: bool) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, "::", port, reuse_port)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return _bound(socket.AF_INET, "0.0.0.0", port, reuse_port)


def bind_host(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """Bind a port of one address; nobody can connect before it listens.

    Raises:
        AddressInUse: It can't be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return _bound(family, host, port, reuse_port)
    except OSError as error:
        raise in_use(port, "port", error) from None


def _bound(family: socket.AddressFamily, host: str, port: int, reuse_port: bool) -> socket.socket:
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is; with
    # it, each answer would wait 40 ms for the caller's acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # So that connections of a server that has just ended don't count as in use.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
