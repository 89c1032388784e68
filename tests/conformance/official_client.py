"""Asks a server with the package tensorflow-serving-api, and with ladle's client beside it.

Usage, by the conformance environment's Python:
official_client.py ladle|upstream ADDRESS MODEL IMAGES.npy

The first word is the client to import, and to ask, first. Prints what both got, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

TIMEOUT_S = 60


def main() -> None:
    """Ask both clients in the order given."""
    first, address, model, path = sys.argv[1:]
    images = np.load(path, allow_pickle=False)
    clients = {"ladle": ask_with_ladle, "upstream": ask_with_upstream}
    order = sorted(clients, key=lambda name: name != first)
    print(json.dumps({name: clients[name](address, model, images) for name in order}))


def ask_with_ladle(address: str, model: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Predict on raw pixels, which the client normalises."""
    from ladle.client import Client, NotFound

    with Client(address, timeout=TIMEOUT_S) as client:
        prediction = client.predict(model, images)
        states = [version.state for version in client.status(model)]
        try:
            client.predict("nope", images)
        except NotFound as error:
            unknown = str(error.details)
    return {
        "probabilities": prediction["probabilities"].tolist(),
        "version": prediction.version,
        "states": [int(state) for state in states],
        "unknown": unknown,
    }


def ask_with_upstream(address: str, model: str, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Predict on raw pixels, through the signature that normalises them."""
    sys.modules["keras"] = None  # type: ignore[assignment] # half of TensorFlow's import, unused
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    with grpc.insecure_channel(address) as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model
        request.model_spec.signature_name = "serving_uint8"
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
        response = prediction.Predict(request, timeout=TIMEOUT_S)

        about = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        about.model_spec.name = model
        metadata = prediction.GetModelMetadata(about, timeout=TIMEOUT_S)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert metadata.metadata["signature_def"].Unpack(signatures)

        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = model
        status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(
            asked, timeout=TIMEOUT_S
        )
        request.model_spec.name = "nope"
        try:
            prediction.Predict(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            unknown = error.details()
    return {
        "probabilities": tf.make_ndarray(response.outputs["probabilities"]).tolist(),
        "version": response.model_spec.version.value,
        "states": [version.state for version in status.model_version_status],
        "unknown": unknown,
        "signatures": sorted(signatures.signature_def),
    }


if __name__ == "__main__":
    main()
