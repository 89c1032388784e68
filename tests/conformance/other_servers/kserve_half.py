"""The model `half` on KServe's Python server: y = x / 2 + 2, and no NaN.

Served by: python tests/conformance/other_servers/kserve_half.py --grpc_port 8081
"""

import argparse
from typing import Any

import numpy as np
from kserve import (
    InferOutput,
    InferResponse,
    Model,
    ModelServer,
    model_server,
)
from kserve.errors import InvalidInput


class Half(Model):  # type: ignore[misc]
    """Answers without a version, as all of KServe's models."""

    def __init__(self) -> None:
        super().__init__("half")
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        """Return what metadata says of the inputs."""
        return [{"name": "x", "datatype": "FP32", "shape": [-1]}]

    async def get_output_types(self) -> list[dict[str, Any]]:
        """Return what metadata says of the outputs."""
        return [{"name": "y", "datatype": "FP32", "shape": [-1]}]

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer a request."""
        x = payload.inputs[0].as_numpy()
        if np.isnan(x).any():
            raise InvalidInput("no NaN")
        y = (x / 2 + 2).astype(np.float32)
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32")
        output.set_data_from_numpy(y, binary_data=True)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.parse_known_args()
    ModelServer().start([Half()])
