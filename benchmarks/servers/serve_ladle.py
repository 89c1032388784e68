"""ladle, as its command line starts it."""

from __future__ import annotations

import sys
from pathlib import Path

import classifier
import numpy as np

ADDRESS = "127.0.0.1"


def serve(folder: str, port: int) -> None:
    """Serve until killed."""
    from ladle import cli

    # The folder is a version of the base path.
    sys.argv[1:] = [
        "serve",
        f"--port={port}",
        f"--model_name={classifier.NAME}",
        f"--model_base_path={Path(folder).parent}",
        "--enable_serialization_as_tensor_content",
    ]
    raise SystemExit(cli.main())


def request() -> bytes:
    """Return a serialized PredictRequest."""
    from ladle.protos import tensors
    from ladle.protos.serving_pb import PredictRequest

    message = PredictRequest()
    message.model_spec.name = classifier.NAME
    message.inputs["image"].CopyFrom(tensors.to_proto(classifier.image()))
    return message.SerializeToString()


def check(port: int) -> classifier.Floats:
    """Ask through ladle's client."""
    from ladle.client import Client

    with Client(f"{ADDRESS}:{port}") as client:
        answer = client.predict(
            classifier.NAME,
            {"image": classifier.image()},
            timeout=classifier.CHECK_TIMEOUT_S,
        )
    return np.asarray(answer["probabilities"], np.float32)


if __name__ == "__main__":
    classifier.main(serve, request, check)
