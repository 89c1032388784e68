"""Asks a server as KServe's clients do, over REST and over gRPC, and tells what it answered."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from conformance.open_inference.bare import bare

bare("kserve", "kserve.protocol")

from kserve.inference_client import (  # noqa: E402
    InferenceGRPCClient,
    InferenceRESTClient,
    RESTConfig,
)
from kserve.protocol.infer_type import InferInput, InferRequest  # noqa: E402

X = np.array([1, 2, 5], np.float32)


def infer_request(*, binary: bool) -> InferRequest:
    """Return a request to `half`."""
    given = InferInput("x", list(X.shape), "FP32")
    given.set_data_from_numpy(X, binary_data=binary)
    return InferRequest(model_name="half", infer_inputs=[given])


async def over_rest(base: str) -> dict[str, Any]:
    """Ask over REST."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    as_dict = {
        "inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "data": X.tolist()}],
    }
    told: dict[str, Any] = {
        "live": await client.is_server_live(base),
        "ready": await client.is_server_ready(base),
        "model_ready": await client.is_model_ready(base, "half"),
        "unknown_ready": await client.is_model_ready(base, "nope"),
    }
    given: tuple[Any, ...] = (as_dict, infer_request(binary=False), infer_request(binary=True))
    told["answers"] = []
    for data in given:
        answer = await client.infer(base, data, model_name="half")
        if isinstance(answer, dict):
            told["answers"].append(answer["outputs"][0]["data"])
        else:
            told["answers"].append(answer.outputs[0].as_numpy().tolist())
    try:
        await client.infer(base, as_dict, model_name="nope")
    except Exception as error:
        told["error"] = str(error)
    return told


async def over_grpc(address: str) -> dict[str, Any]:
    """Ask over gRPC."""
    client = InferenceGRPCClient(address)
    told: dict[str, Any] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("half"),
        "answers": [],
    }
    for binary in (False, True):
        answer = await client.infer(infer_request(binary=binary))
        told["answers"].append(answer.outputs[0].as_numpy().tolist())
    try:
        await client.is_model_ready("nope")
    except Exception as error:
        told["error"] = str(error)
    return told


async def main() -> None:
    """Ask the servers whose addresses are the arguments: gRPC, HTTP."""
    grpc_address, base = sys.argv[1:]
    print(json.dumps({"grpc": await over_grpc(grpc_address), "rest": await over_rest(base)}))


if __name__ == "__main__":
    asyncio.run(main())
