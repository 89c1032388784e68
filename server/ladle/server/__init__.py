"""Serves TensorFlow SavedModels over gRPC: `Server(Config(...))`, or the command `ladle serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ladle.server.config import Config

if TYPE_CHECKING:
    from ladle.server.server import Server, StartupError

__all__ = ["Config", "Server", "StartupError"]


def __getattr__(name: str) -> Any:
    # `ladle serve --help` reads Config alone, and should not wait for grpc.
    if name in ("Server", "StartupError"):
        from ladle.server import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
