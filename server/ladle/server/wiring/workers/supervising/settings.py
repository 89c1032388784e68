"""What a worker is told before it starts: the server's flags, with its part of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle.server.config import Config

# So that connections that stay for long spread over the workers again, after one was started anew.
_CONNECTION_AGES = {
    "grpc.max_connection_age_ms": 300_000,
    "grpc.max_connection_age_grace_ms": 30_000,
}


def worker_settings(
    given: Mapping[str, Any], *, transport: str, grpc_port: int, http_port: int, late: bool
) -> dict[str, Any]:
    """Return the arguments of a worker's Config.

    Args:
        given: those of the supervisor's.
        transport: what serves gRPC, `native` or `grpcio`.
        grpc_port: gRPC's port, as it was bound.
        http_port: HTTP's port, as it was bound; 0 for none.
        late: whether the worker opens its ports only once its models are up.
    """
    config = Config(**given)
    names = [name for name, _ in config.channel_arguments]
    ages = [f"{name}={ms}" for name, ms in _CONNECTION_AGES.items() if name not in names]
    arguments = [config.grpc_channel_arguments] if config.grpc_channel_arguments.strip() else []
    return {
        **given,
        "transport": transport,
        "port": grpc_port,
        "rest_api_port": http_port,
        "reuse_port": config.reuse_port or transport == "grpcio",
        "wait_for_models": config.wait_for_models or late,
        "grpc_channel_arguments": ",".join([*arguments, *ages]),
    }
