"""Asks a server with MLServer's own messages and types, and tells what it answered."""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from conformance.open_inference.bare import bare

bare("mlserver", "mlserver.grpc")

from mlserver import types  # noqa: E402
from mlserver.grpc import (  # noqa: E402
    dataplane_pb2,
    dataplane_pb2_grpc,
    model_repository_pb2,
    model_repository_pb2_grpc,
)
from mlserver.grpc.converters import (  # noqa: E402
    ModelInferRequestConverter,
    ModelInferResponseConverter,
)

X = np.array([1, 2, 5], np.float32)


def main() -> None:
    """Ask the server whose addresses are the arguments: gRPC, HTTP."""
    address, base = sys.argv[1:]
    request = types.InferenceRequest(
        id="7",
        inputs=[types.RequestInput(name="x", shape=[3], datatype="FP32", data=X.tolist())],
    )
    content = request.model_dump(exclude_none=True)  # the converter takes values out of it
    told: dict[str, Any] = {"answers": []}
    with grpc.insecure_channel(address) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        for use_raw in (False, True):
            asked = ModelInferRequestConverter.from_types(
                request, model_name="half", use_raw=use_raw
            )
            answer = ModelInferResponseConverter.to_types(stub.ModelInfer(asked))
            told["answers"].append([answer.id, list(answer.outputs[0].data)])
        metadata = stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name="half"))
        told["metadata"] = [metadata.name, list(metadata.versions), metadata.platform]
        repository = model_repository_pb2_grpc.ModelRepositoryServiceStub(channel)
        index = repository.RepositoryIndex(model_repository_pb2.RepositoryIndexRequest())
        told["index"] = [[model.name, model.state] for model in index.models if model.name == "two"]
        load = model_repository_pb2.RepositoryModelLoadRequest(model_name="half")
        repository.RepositoryModelLoad(load)
    rest = httpx.post(f"{base}/v2/models/half/infer", json=content)
    answered = types.InferenceResponse.model_validate(rest.json())
    told["answers"].append([answered.id, list(answered.outputs[0].data)])
    types.MetadataModelResponse.model_validate(httpx.get(f"{base}/v2/models/half").json())
    types.MetadataServerResponse.model_validate(httpx.get(f"{base}/v2").json())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
