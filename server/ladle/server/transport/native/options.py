"""What gRPC's channel arguments mean to the native transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# gRPC's own defaults, but for the sign of life: it asks for one after two hours.
_KEEPALIVE_S = 120.0
_KEEPALIVE_TIMEOUT_S = 20.0
_MAX_METADATA_BYTES = 16 << 10
# A caller with more calls than that keeps them until the first ones have ended, and loses none.
_MAX_CONCURRENT_STREAMS = 1024

MAX_CONNECTIONS = "grpc.max_allowed_incoming_connections"

_KNOWN = (
    MAX_CONNECTIONS,
    "grpc.max_concurrent_streams",
    "grpc.max_metadata_size",
    "grpc.keepalive_time_ms",
    "grpc.keepalive_timeout_ms",
    "grpc.max_connection_age_ms",
    "grpc.max_connection_age_grace_ms",
    "grpc.so_reuseport",
)


@dataclass(frozen=True)
class ConnectionOptions:
    """How connections are kept. Times are in seconds; None: without end."""

    max_connections: int = (1 << 31) - 1
    """Idle ones included."""
    max_concurrent_streams: int = _MAX_CONCURRENT_STREAMS
    max_metadata_bytes: int = _MAX_METADATA_BYTES
    keepalive_s: float = _KEEPALIVE_S
    keepalive_timeout_s: float = _KEEPALIVE_TIMEOUT_S
    max_age_s: float | None = None
    max_age_grace_s: float | None = None
    shares_ports: bool = False
    """Whether other processes may listen on the same ports."""


def unknown(arguments: Sequence[tuple[str, Any]]) -> list[str]:
    """Return the names of arguments that do nothing here."""
    return [name for name, _ in arguments if name not in _KNOWN]


def connection_options(arguments: Sequence[tuple[str, Any]]) -> ConnectionOptions:
    """Read channel arguments; of two values for one name the first counts, as for gRPC.

    Raises:
        ValueError: One of these is no whole number from 0 on; the message names it.
    """
    given: dict[str, int] = {}
    for name, value in arguments:
        if name not in _KNOWN:
            continue
        if not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise ValueError(f"{name}: expected a number from 0 to {(1 << 31) - 1}, got {value}")
        given.setdefault(name, value)

    def seconds(name: str) -> float | None:
        # gRPC writes "never" as the largest number.
        value = given.get(f"grpc.{name}_ms", (1 << 31) - 1)
        return None if value == (1 << 31) - 1 else value / 1000

    keepalive_s = seconds("keepalive_time")
    timeout_s = seconds("keepalive_timeout")
    return ConnectionOptions(
        max_connections=given.get(MAX_CONNECTIONS, (1 << 31) - 1),
        max_concurrent_streams=given.get("grpc.max_concurrent_streams", _MAX_CONCURRENT_STREAMS),
        max_metadata_bytes=given.get("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        keepalive_s=_KEEPALIVE_S if keepalive_s is None else keepalive_s,
        keepalive_timeout_s=_KEEPALIVE_TIMEOUT_S if timeout_s is None else timeout_s,
        max_age_s=seconds("max_connection_age"),
        max_age_grace_s=seconds("max_connection_age_grace"),
        shares_ports=bool(given.get("grpc.so_reuseport", 0)),
    )
