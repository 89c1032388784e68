"""Where a caller is, by what gRPC calls its address."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote


def is_local(peer: str) -> bool:
    """Whether `ipv4:127.0.0.1:4711`, `ipv6:[::1]:4711` or `unix:` is on this machine.

    What is in no such form counts as elsewhere.
    """
    family, _, rest = peer.partition(":")
    if family == "unix":
        return True
    if family not in ("ipv4", "ipv6"):
        return False
    return is_loopback(unquote(rest).rpartition(":")[0].removeprefix("[").removesuffix("]"))


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether an address without a port is this machine's own; what is no address is not."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
