"""The Host of a request: there is one at most, and it is one that the server answers to."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ladle.server.rest.status_codes import HttpError

# RFC 3986, 3.2.2, in lower case: a name or an address, or an address in brackets.
_HOST = re.compile(r"(?:[a-z0-9._~!$&'()*+,;=%-]{0,255}|\[[0-9a-z:.%_~-]{0,255}\])(?::[0-9]{0,5})?")


def only_host(values: Sequence[str]) -> str:
    """Return the host that a request names, without its port and in lower case.

    Args:
        values: those of all its `Host` headers; none is an empty name.

    Raises:
        HttpError: There are several, and two readers could take different ones; or it is no host
            (RFC 9112, 3.2).
    """
    if not values:
        return ""
    if len(values) > 1:
        raise HttpError(400, f"expected one Host header, got {len(values)}")
    host = values[0].strip().lower()
    if not _HOST.fullmatch(host):
        raise HttpError(400, f"expected a host and maybe a port in Host, got {host[:100]!r}")
    name, colon, port = host.rpartition(":")
    # Without brackets an IPv6 address would end in something like a port.
    return name if colon and port.isdecimal() and not name.endswith(":") else host


def require_allowed(host: str, allowed: Sequence[str]) -> None:
    """Refuse a host that is not among the allowed ones, where there are any.

    A page whose name was pointed at this server's address (DNS rebinding) is stopped by that.

    Raises:
        HttpError: It is not allowed.
    """
    if not allowed or any(_fits(host, one) for one in allowed):
        return
    raise HttpError(421, f"Host: expected one of --allowed_hosts, got {host[:100]!r}")


def _fits(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and len(host) > len(allowed) - 1
    return host == allowed
