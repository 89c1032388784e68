"""KServe's Python server: Open Inference Protocol over gRPC, a custom model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

import classifier
import open_inference

# Its import reads the process's own command line.
_ARGUMENTS, sys.argv[1:] = sys.argv[1:], []
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer  # noqa: E402
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages  # noqa: E402
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services  # noqa: E402

sys.argv[1:] = _ARGUMENTS


class Classifier(Model):
    """Runs the images of one request: over gRPC, KServe offers no batching of requests."""

    def __init__(self, folder: str) -> None:
        super().__init__(classifier.NAME)
        self._classify = classifier.load(folder)
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None
    ) -> InferResponse:
        """Run the model."""
        probabilities = self._classify(payload.inputs[0].as_numpy())
        output = InferOutput("probabilities", list(probabilities.shape), "FP32")
        output.set_data_from_numpy(probabilities)
        return InferResponse(payload.id, self.name, [output])


def serve(folder: str, port: int) -> None:
    """Serve until killed."""
    server = ModelServer(
        http_port=classifier.free_ports(1)[0], grpc_port=port, enable_latency_logging=False
    )
    for name in ("kserve", "kserve.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it logs every call
    server.start([Classifier(folder)])


def request() -> bytes:
    """Return a serialized ModelInferRequest."""
    return open_inference.serialized(messages)


def check(port: int) -> classifier.Floats:
    """Ask through KServe's stub."""
    return open_inference.check(port, messages, services.GRPCInferenceServiceStub)


if __name__ == "__main__":
    classifier.main(serve, request, check)
