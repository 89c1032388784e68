"""Serves TensorFlow SavedModels over gRPC: `Server(Config(...))`, or the command `ladle serve`.

`ladle.embedded` serves them inside a process, without ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ladle.server.config import Config

if TYPE_CHECKING:
    from ladle.server.server import Server
    from ladle.server.wiring.startup import StartupError

__all__ = ["Config", "Server", "StartupError"]


def __getattr__(name: str) -> Any:
    # `ladle serve --help` reads Config alone, and should not wait for grpc.
    if name == "Server":
        from ladle.server.server import Server

        return Server
    if name == "StartupError":
        from ladle.server.wiring.startup import StartupError

        return StartupError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
