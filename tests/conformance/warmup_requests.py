"""Sends a version's warm-up requests through the package tensorflow-serving-api.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.warmup_requests ADDRESS MODEL WARMUP_FILE

Prints, as JSON, for each signature the outputs' shapes, or the first result of Classify or Regress.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
import grpc
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc

from ladle.server.warmup.records import read_records

TIMEOUT_S = 60


def main() -> None:
    """Send every record's request to the model, under the method that it is a log of."""
    address, model, path = sys.argv[1:]
    answers: dict[str, Any] = {}
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for record in read_records(Path(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            request = getattr(log, kind).request
            request.model_spec.name = model
            name = request.model_spec.signature_name
            if kind == "predict_log":
                outputs = stub.Predict(request, timeout=TIMEOUT_S).outputs
                answers[name] = {
                    key: [dim.size for dim in tensor.tensor_shape.dim]
                    for key, tensor in outputs.items()
                }
            elif kind == "classify_log":
                result = stub.Classify(request, timeout=TIMEOUT_S).result
                classes = result.classifications[0].classes
                answers[name] = {one.label: one.score for one in classes}
            else:
                result = stub.Regress(request, timeout=TIMEOUT_S).result
                answers[name] = result.regressions[0].value
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
