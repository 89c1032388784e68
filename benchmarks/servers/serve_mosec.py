"""mosec: a Rust HTTP server before Python workers. The body is the image's bytes, and no more."""

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Callable

import classifier
import numpy as np
from mosec import Server, Worker

_FOLDER = "CLASSIFIER_FOLDER"
# How long a batch waits for company. Every wait is paid in full by a caller that has none.
_MAX_WAIT_MS = 1


class Classifier(Worker):
    """Runs a batch of images."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._classify: Callable[[classifier.Floats], classifier.Floats] = classifier.load(
            os.environ[_FOLDER]
        )

    def deserialize(self, data: bytes) -> classifier.Floats:
        """Read a request."""
        return np.frombuffer(data, np.float32).reshape(28, 28)

    def forward(self, data: list[classifier.Floats]) -> list[classifier.Floats]:
        """Run the model."""
        return list(self._classify(np.stack(data)))

    def serialize(self, data: classifier.Floats) -> bytes:
        """Write an answer."""
        return data.tobytes()


def serve(folder: str, port: int) -> None:
    """Serve until killed."""
    os.environ[_FOLDER] = folder
    sys.argv[1:] = [
        "--address=127.0.0.1",
        f"--port={port}",
        "--log-level=warning",
        "--timeout=60000",
    ]
    server = Server()
    server.append_worker(
        Classifier, max_batch_size=classifier.MAX_BATCH_SIZE, max_wait_time=_MAX_WAIT_MS
    )
    server.run()


def request() -> bytes:
    """Return the image's bytes."""
    return classifier.image().tobytes()


def check(port: int) -> classifier.Floats:
    """Ask over HTTP."""
    url = f"http://127.0.0.1:{port}/inference"
    with urllib.request.urlopen(url, request(), classifier.CHECK_TIMEOUT_S) as response:
        return np.frombuffer(response.read(), np.float32)


if __name__ == "__main__":
    classifier.main(serve, request, check)
