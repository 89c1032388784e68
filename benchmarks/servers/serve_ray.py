"""Ray Serve: its gRPC proxy before a replica that batches. The message is the image's bytes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import classifier
import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

_METHOD = "/ladle.benchmarks.Classifier/Predict"
# How long a batch waits for company.
_MAX_WAIT_S = 0.001
_MAX_ONGOING = 2 * classifier.MAX_BATCH_SIZE
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_worker_niceness": "0",  # its workers step back before all others by default
}


def add_classifier_to_server(servicer: Any, server: Any) -> None:
    """Register the service, as code generated from a .proto file would."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Predict,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    service = _METHOD.split("/")[1]
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Predict": handler}),)
    )


def serve(folder: str, port: int) -> None:
    """Serve until killed."""
    os.environ.update(_SETTINGS, PYTHONPATH=str(Path(__file__).parent))
    import ray
    from ray import serve as ray_serve

    class Classifier:
        def __init__(self) -> None:
            self._classify = classifier.load(folder)

        @ray_serve.batch(max_batch_size=classifier.MAX_BATCH_SIZE, batch_wait_timeout_s=_MAX_WAIT_S)
        async def run(self, messages: list[bytes]) -> list[bytes]:
            images = np.stack([np.frombuffer(each, np.float32) for each in messages])
            return [row.tobytes() for row in self._classify(images.reshape(-1, 28, 28))]

        async def Predict(self, request: BytesValue) -> BytesValue:
            return BytesValue(value=await self.run(request.value))

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="warning")
    ray_serve.start(
        http_options={"host": "127.0.0.1", "port": classifier.free_ports(1)[0]},
        grpc_options={
            "port": port,
            "grpc_servicer_functions": ["serve_ray.add_classifier_to_server"],
        },
    )
    deployed: Any = ray_serve.deployment(max_ongoing_requests=_MAX_ONGOING)(Classifier)
    ray_serve.run(deployed.bind(), name=classifier.NAME, route_prefix="/")
    threading.Event().wait()


def request() -> bytes:
    """Return a serialized BytesValue that holds the image's bytes."""
    return BytesValue(value=classifier.image().tobytes()).SerializeToString()


def check(port: int) -> classifier.Floats:
    """Ask over gRPC."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            _METHOD,
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )
        message = BytesValue(value=classifier.image().tobytes())
        answer = call(message, timeout=classifier.CHECK_TIMEOUT_S)
    return np.frombuffer(answer.value, np.float32)


if __name__ == "__main__":
    classifier.main(serve, request, check)
