"""ladle on Ray Serve: TensorFlow Serving's clients, unchanged, at Ray's gRPC port.

`add_services` is for Ray's `grpc_servicer_functions`; `app` and `app_from_args` make the
application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ladle.ray.services import add_services

if TYPE_CHECKING:
    from ladle.ray.application import app, app_from_args

__all__ = ["add_services", "app", "app_from_args"]


def __getattr__(name: str) -> Any:
    # Ray's proxies import `add_services` alone, and should not wait for the server.
    if name in ("app", "app_from_args"):
        from ladle.ray import application

        return getattr(application, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
