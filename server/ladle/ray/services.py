"""What Ray's proxies listen for: TensorFlow Serving's methods and a health check, as bytes.

Ray hands a call to the ingress's method of the same last name, so no two services here share one.
What upstream generates for its services would have each proxy parse messages, and pickle what it
parsed.
"""

from __future__ import annotations

from typing import Any

import grpc

_METHODS = {
    "tensorflow.serving.PredictionService": (
        "Predict",
        "Classify",
        "Regress",
        "MultiInference",
        "GetModelMetadata",
    ),
    "tensorflow.serving.ModelService": ("GetModelStatus", "HandleReloadConfigRequest"),
    "grpc.health.v1.Health": ("Check",),
}
PATHS = {name: f"/{service}/{name}" for service, names in _METHODS.items() for name in names}
"""The full path of each method, by its last name."""


def add_services(servicer: Any, server: Any) -> None:
    """Register the services at one of Ray's gRPC servers; requests stay bytes.

    Ray's configuration names it, `grpc_servicer_functions: ["ladle.ray:add_services"]`, and its
    proxies import it: ladle has to be installed on every node.
    """
    for service, names in _METHODS.items():
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(getattr(servicer, name)) for name in names
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
