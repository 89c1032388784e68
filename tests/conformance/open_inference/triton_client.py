"""Asks a server as tritonclient does over gRPC, and tells what it answered."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    """Ask for the model `half_plus_two` at the address that is the argument."""
    client = triton.InferenceServerClient(sys.argv[1])
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    given = triton.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    wanted = triton.InferRequestedOutput("y")
    told: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("half_plus_two"),
        "metadata": client.get_server_metadata(as_json=True)["name"],
        "model": client.get_model_metadata("half_plus_two", as_json=True),
    }
    answer = client.infer("half_plus_two", [given], outputs=[wanted], request_id="7", timeout=10**7)
    told["answer"] = answer.as_numpy("y").tolist()
    told["id"] = answer.get_response().id
    compressed = client.infer("half_plus_two", [given], compression_algorithm="gzip")
    told["compressed"] = compressed.as_numpy("y").tolist()
    classes = triton.InferRequestedOutput("y", class_count=1)
    told["classes"] = [
        [text.decode() for text in row]
        for row in client.infer("half_plus_two", [given], outputs=[classes]).as_numpy("y").tolist()
    ]
    try:
        client.get_model_metadata("wrong")
    except triton.InferenceServerException as error:
        told["wrong"] = [error.status(), error.message()]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
