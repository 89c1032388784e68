"""What an address says, and what is wrong with it. Pure functions; no names are looked up."""

from __future__ import annotations

import re
from ipaddress import ip_address

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:", "google-c2p:")
_HOST = re.compile(r"[A-Za-z0-9._%-]+")
_PORTS = range(1, 1 << 16)
_EXAMPLE = "such as localhost:8500"


def check_address(address: object, *, has_tls: bool) -> None:
    """Check that an address is a gRPC target that can be connected to.

    Raises:
        TypeError: It is no text.
        ValueError: gRPC would misread it; the message says what to write instead.
    """
    if not isinstance(address, str):
        raise TypeError(f"address: expected text, {_EXAMPLE}, got {type(address).__name__}")
    url = re.match(r"\s*(\w+)://([^/\s]*)", address)
    if url is not None and url[1].lower() in ("http", "https", "grpc", "grpcs", "tcp"):
        tls = ", with tls=True" if url[1].lower() in ("https", "grpcs") else ""
        raise ValueError(
            f'address: expected host:port without "{url[1]}://", got "{address}"; '
            f'pass "{url[2]}"{tls}, with the gRPC port, which is 8500 by default'
        )
    if address.rstrip("/") in _SCHEMES:
        raise ValueError(f'address: expected something after "{address}", got nothing')
    if address.startswith(_SCHEMES) and not address.startswith("dns:"):
        return
    for target in address.split(","):
        _check_host_and_port(target, address, has_tls=has_tls)


def _check_host_and_port(target: str, address: str, *, has_tls: bool) -> None:
    host, port = split(target)
    if port is None:
        if not has_tls or not _HOST.fullmatch(host.strip("[]")):
            raise ValueError(
                f'address: expected host:port, {_EXAMPLE}, got "{address}" without a port; '
                "a server's gRPC port is 8500 by default"
            )
    elif not port.isascii() or not port.isdigit() or int(port[:6]) not in _PORTS:
        raise ValueError(
            f'address: expected a port from 1 to 65535, {_EXAMPLE}, got "{port}" in "{address}"'
        )
    elif not _HOST.fullmatch(host) and not _is_ip(host):
        raise ValueError(f'address: expected host:port, {_EXAMPLE}, got "{address}"')


def split(target: str) -> tuple[str, str | None]:
    """Return the host and the port of a target, `[::1]:8500` as `::1` and `8500`."""
    name = target
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        name = name.removeprefix(scheme)
    name = re.sub(r"^//[^/]*/", "", name)  # dns://authority/host
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", name)
    if bracketed is not None:
        return bracketed[1], bracketed[2]
    if name.count(":") > 1:
        return name, None  # an IPv6 address that needs brackets for a port
    host, colon, port = name.partition(":")
    return host, port if colon else None


def is_this_machine(address: str) -> bool:
    """Return whether what is sent to an address stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    if re.match(r"dns://[^/]", address):
        return False  # a name server of its own says where the name leads
    return all(_is_loopback(split(target)[0]) for target in address.split(","))


def advice(details: str) -> str:
    """Return what to do about a connection that failed, by gRPC's words; empty if unknown."""
    if "WRONG_VERSION_NUMBER" in details:
        return "the server has no TLS at this port: leave tls out, or use its TLS port"
    if "http1.x" in details or "Failed parsing HTTP/2" in details:
        return "this is no gRPC port, and may be the HTTP (REST) one; gRPC's is 8500 by default"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "the server's certificate is of no authority that this client trusts: "
            'pass tls=TLS(ca="ca.pem") with the file of its authority'
        )
    if "Hostname Verification Check failed" in details:
        return (
            "the server's certificate is for another name than the address's: "
            'pass tls=TLS(..., server_name="the name in it")'
        )
    if "failed to connect" in details and "Socket closed" in details:
        return "the server hung up: if it has TLS, pass tls=True or a TLS"
    if "Connection refused" in details:
        return "nothing listens there: is the server running, and is that its gRPC port?"
    return ""


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
