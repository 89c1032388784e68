"""What the compared servers share: the model, the image they are asked for, their command line.

Each serve_*.py runs in an environment of its own: `serve FOLDER PORT` serves the SavedModel in
FOLDER, `request` writes the body of a request to stdout, and `check PORT` asks the server through
a real client of its kind and prints the probabilities.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "classifier"
MAX_BATCH_SIZE = 128
"""Rows in a batch at most, where a server batches: as many as are ever in flight."""
CHECK_TIMEOUT_S = 60

Floats = NDArray[np.float32]


def image() -> Floats:
    """Return the image that every request holds: float32 [1, 28, 28]."""
    return np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28)


def load(folder: str) -> Callable[[Floats], Floats]:
    """Return the model as a function of images, float32 [n, 28, 28], to probabilities [n, 10]."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    signature = model.signatures["serving_default"]

    def classify(images: Floats, _model: Any = model) -> Floats:
        probabilities: Floats = signature(image=tf.constant(images))["probabilities"].numpy()
        return probabilities

    for rows in (1, 2, MAX_BATCH_SIZE):
        classify(np.repeat(image(), rows, axis=0))
    return classify


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, for what a server opens beside its own."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main(
    serve: Callable[[str, int], None],
    request: Callable[[], bytes],
    check: Callable[[int], Floats],
) -> None:
    """Do what the command line asks for."""
    match sys.argv[1:]:
        case ["serve", folder, port]:
            serve(folder, int(port))
        case ["request"]:
            sys.stdout.buffer.write(request())
        case ["check", port]:
            print(json.dumps(check(int(port)).ravel().tolist()))
        case other:
            raise SystemExit(f"expected serve FOLDER PORT, request or check PORT, got {other}")
