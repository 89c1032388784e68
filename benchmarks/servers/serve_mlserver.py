"""MLServer: Open Inference Protocol over gRPC, a custom runtime, adaptive batching."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import classifier
import open_inference
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc
from mlserver.types import InferenceRequest, InferenceResponse

# How long a batch waits for company, which a single caller always does.
_MAX_WAIT_S = 0.001


class ClassifierRuntime(MLModel):
    """Runs a batch of images."""

    async def load(self) -> bool:
        """Load the model."""
        self._classify = classifier.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model."""
        images = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("probabilities", self._classify(images))
        return InferenceResponse(model_name=self.name, outputs=[output])


def serve(folder: str, port: int) -> None:
    """Serve until killed."""
    http_port = classifier.free_ports(1)[0]
    # In its own process: a pool of workers on the same core only adds ways between processes.
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": http_port,
        "parallel_workers": 0,
        "debug": False,
        "metrics_endpoint": None,
    }
    model_settings = {
        "name": classifier.NAME,
        "implementation": "serve_mlserver.ClassifierRuntime",
        "max_batch_size": classifier.MAX_BATCH_SIZE,
        "max_batch_time": _MAX_WAIT_S,
        "parameters": {"uri": folder},
    }
    repository = tempfile.mkdtemp(dir=Path(folder).parent.parent)
    Path(repository, "settings.json").write_text(json.dumps(settings))
    Path(repository, "model-settings.json").write_text(json.dumps(model_settings))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.chdir(repository)
    command = str(Path(sys.executable).with_name("mlserver"))
    os.execv(command, [command, "start", "."])


def request() -> bytes:
    """Return a serialized ModelInferRequest."""
    return open_inference.serialized(dataplane_pb2)


def check(port: int) -> classifier.Floats:
    """Ask through MLServer's stub."""
    return open_inference.check(port, dataplane_pb2, dataplane_pb2_grpc.GRPCInferenceServiceStub)


if __name__ == "__main__":
    classifier.main(serve, request, check)
