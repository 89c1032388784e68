"""A request of the Open Inference Protocol over gRPC, of whoever's messages, and its answer."""

from __future__ import annotations

from typing import Any

import classifier
import grpc
import numpy as np


def request(messages: Any) -> Any:
    """Return a ModelInferRequest with the image in `raw_input_contents`.

    `messages` is a server's own generated module: each ships one.
    """
    image = classifier.image()
    message = messages.ModelInferRequest(model_name=classifier.NAME)
    message.inputs.add(name="image", datatype="FP32", shape=image.shape)
    message.raw_input_contents.append(image.tobytes())
    return message


def serialized(messages: Any) -> bytes:
    """Return the bytes of a request."""
    body: bytes = request(messages).SerializeToString()
    return body


def check(port: int, messages: Any, stub_class: Any) -> classifier.Floats:
    """Ask through a server's own stub."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = stub_class(channel)
        answer = stub.ModelInfer(request(messages), timeout=classifier.CHECK_TIMEOUT_S)
    return np.frombuffer(answer.raw_output_contents[0], np.float32)
