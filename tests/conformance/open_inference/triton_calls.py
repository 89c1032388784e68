"""Calls a server as tritonclient's published examples do, in four ways, and tells what came of it.

Usage: python -m conformance.open_inference.triton_calls WAY GRPC_ADDRESS HTTP_ADDRESS
WAY is one of grpc, grpc_aio, http and http_aio.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import queue
import sys
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.ones((1, 16), np.int32)


class Caller:
    """A client of either kind, whose answers are awaited where they have to be."""

    def __init__(self, way: str, address: str) -> None:
        self.api: Any = importlib.import_module("tritonclient." + way.replace("_", "."))
        self.client: Any = self.api.InferenceServerClient(address)
        self.is_http = way.startswith("http")

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Return what a method of the client returns."""
        answer = getattr(self.client, method)(*arguments, **options)
        return await answer if inspect.isawaitable(answer) else answer

    async def text_of(self, method: str, *arguments: Any, **options: Any) -> str:
        """Return the message of the exception that a method raises."""
        try:
            await self.call(method, *arguments, **options)
        except InferenceServerException as error:
            return str(error.message())
        return "no error"

    async def as_dict(self, method: str, *arguments: Any) -> Any:
        """Return an answer as JSON's own types."""
        options = {} if self.is_http else {"as_json": True}
        return await self.call(method, *arguments, **options)

    def inputs(self, **arrays: Any) -> list[Any]:
        """Return inputs of these names."""
        from tritonclient.utils import np_to_triton_dtype

        made = []
        for name, array in arrays.items():
            given = self.api.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            given.set_data_from_numpy(array)
            made.append(given)
        return made

    def outputs(self, *names: str, **options: Any) -> list[Any]:
        """Return requested outputs of these names."""
        return [self.api.InferRequestedOutput(name, **options) for name in names]


async def health(caller: Caller) -> dict[str, Any]:
    """As the health and metadata examples; not their look at the server's name."""
    return {
        "live": await caller.call("is_server_live"),
        "ready": await caller.call("is_server_ready"),
        "model_ready": await caller.call("is_model_ready", "simple"),
        "metadata": (await caller.as_dict("get_server_metadata"))["name"],
        "model": (await caller.as_dict("get_model_metadata", "simple"))["name"],
        "large": len((await caller.as_dict("get_model_metadata", "wide"))["outputs"]),
        "config": await caller.as_dict("get_model_config", "picture"),
        "wrong": await caller.text_of("get_model_metadata", "wrong_model_name"),
    }


async def infer(caller: Caller) -> dict[str, Any]:
    """As the infer, aio_infer and reuse_infer_objects examples."""
    inputs = caller.inputs(INPUT0=A, INPUT1=B)
    told: dict[str, Any] = {"sums": []}
    for outputs in (caller.outputs("OUTPUT0", "OUTPUT1"), None):
        for _ in range(2):  # the same objects again
            answer = await caller.call(
                "infer", "simple", inputs, outputs=outputs, request_id="7", timeout=10**7
            )
            told["sums"].append(
                [answer.as_numpy("OUTPUT0").tolist(), answer.as_numpy("OUTPUT1").tolist()]
            )
    statistics = await caller.as_dict("get_inference_statistics", "simple")
    told["statistics"] = len(statistics["model_stats"])
    texts = np.array([[str(n).encode() for n in range(16)]], object)
    answer = await caller.call("infer", "simple_string", caller.inputs(INPUT0=texts, INPUT1=texts))
    told["strings"] = [int(value) for value in answer.as_numpy("OUTPUT0").ravel()]
    empty = await caller.call("infer", "half", caller.inputs(x=np.zeros(0, np.float32)))
    told["empty"] = list(empty.as_numpy("y").shape)
    classes = await caller.call(
        "infer",
        "digits",
        caller.inputs(images=np.arange(64, dtype=np.uint8).reshape(1, 8, 8)),
        outputs=caller.outputs("probabilities", class_count=2),
    )
    told["classes"] = [
        value.decode() for value in classes.as_numpy("probabilities").ravel().tolist()
    ]
    compression = (
        {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
        if caller.is_http
        else {"compression_algorithm": "gzip"}
    )
    large = np.ones(5000, np.float32)
    answer = await caller.call("infer", "half", caller.inputs(x=large), **compression)
    told["compressed"] = answer.as_numpy("y").tolist() == [2.5] * 5000
    every = {}
    for dtype in ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"):
        every[dtype.upper()] = np.array([[1, 0], [0, 1]], dtype)
    for name, dtype in (("FP16", "float16"), ("FP32", "float32"), ("FP64", "float64")):
        every[name] = np.array([[1.5, 0], [0, -1]], dtype)
    every["BYTES"] = np.array([[b"", b"\0"], ["\u00e4".encode(), b"x"]], object)
    told["same"] = {}
    for name, array in every.items():
        answer = await caller.call("infer", f"same_{name}", caller.inputs(x=array))
        told["same"][name] = answer.as_numpy("x").tolist() == array.tolist()
    return told


async def repository(caller: Caller) -> dict[str, Any]:
    """As the examples of model control."""
    told = {
        "index": await caller.as_dict("get_model_repository_index"),
        "wrong": await caller.text_of("load_model", "wrong"),
        "files": await caller.text_of(
            "load_model", "half", config="{}", files={"file:1/model.pb": b"x"}
        ),
    }
    if isinstance(told["index"], dict):
        told["index"] = told["index"]["models"]
    await caller.call("unload_model", "two")
    told["unloaded"] = await caller.text_of("infer", "two", caller.inputs(x=np.ones(1, np.float32)))
    await caller.call("load_model", "two")
    told["loaded"] = await caller.call("is_model_ready", "two")
    for method in ("get_system_shared_memory_status", "get_log_settings", "get_trace_settings"):
        told[method] = await caller.text_of(method)
    return told


async def stream(caller: Caller) -> list[Any]:
    """As the streaming examples, over gRPC."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = caller.client
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    inputs = caller.inputs(x=np.ones(1, np.float32))
    for at, model in enumerate(("half", "nope", "half")):
        client.async_stream_infer(
            model, inputs, request_id=str(at), enable_empty_final_response=True
        )
    told: list[Any] = []
    for _ in range(3):
        result, error = answers.get(timeout=30)
        told.append(str(error.message()) if error else result.get_response().id)
    client.stop_stream()
    return told


def explicit(address: str) -> dict[str, Any]:
    """As the examples of explicit contents, with Triton's own stub."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    told: dict[str, Any] = {}
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, dtype in (("simple", "int32"), ("simple_int8", "int8")):
            asked = service_pb2.ModelInferRequest(model_name=model)
            for name, value in (("INPUT0", 5), ("INPUT1", 2)):
                given = asked.inputs.add(name=name, datatype=dtype.upper(), shape=[1, 16])
                given.contents.int_contents.extend([value] * 16)
            answer = stub.ModelInfer(asked)
            told[model] = [np.frombuffer(raw, dtype).tolist() for raw in answer.raw_output_contents]
        asked.raw_input_contents.append(b"\1" * 16)
        try:
            stub.ModelInfer(asked)
        except grpc.RpcError as error:
            told["both"] = error.details()
        asked = service_pb2.ModelInferRequest(model_name="simple_string")
        for name in ("INPUT0", "INPUT1"):
            given = asked.inputs.add(name=name, datatype="BYTES", shape=[1, 16])
            given.contents.bytes_contents.extend([b"3"] * 16)
        answer = stub.ModelInfer(asked)
        told["simple_string"] = answer.raw_output_contents[0].hex()
    return told


async def main() -> None:
    """Make the calls of the way that is the first argument."""
    way, grpc_address, http_address = sys.argv[1:]
    caller = Caller(way, http_address if way.startswith("http") else grpc_address)
    told: dict[str, Any] = {
        "health": await health(caller),
        "infer": await infer(caller),
        "repository": await repository(caller),
    }
    if way == "grpc":
        told["stream"] = await stream(caller)
        told["explicit"] = explicit(grpc_address)
    if way.endswith("aio"):
        await caller.call("close")
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
