"""A server of the Open Inference Protocol as others are: Triton, MLServer, KServe. Behind gRPC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from client.fakes import Refused
from google.protobuf.message import Message
from numpy.typing import NDArray

from ladle.protos import inference_pb as pb
from ladle.protos.datatypes import BY_NAME, BY_NUMBER, LENGTH, to_raw
from ladle.protos.dtypes import from_numpy

SERVICE = "/inference.GRPCInferenceService/"
Code = grpc.StatusCode
Arrays = Mapping[str, NDArray[Any]]
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Datatypes and shapes by name."""


def halved(inputs: Arrays) -> dict[str, NDArray[Any]]:
    return {"y": inputs["x"] / 2 + 2}


@dataclass
class FakeOpenInference:
    """Answers for model "m" in each of its versions; override or set what differs."""

    run: Callable[[Arrays], Arrays] = halved
    inputs: Tensors = field(default_factory=lambda: {"x": ("FP32", (-1,))})
    outputs: Tensors = field(default_factory=lambda: {"y": ("FP32", (-1,))})
    versions: tuple[str, ...] = ("1", "2")
    is_typed: bool = False
    """Answer in typed contents, as MLServer does."""
    tells_version: bool = True
    """False for KServe's Python server: answers and metadata have no version."""
    has_repository: bool = True
    has_metadata: bool = True
    is_ready: bool = True
    ready: str = "READY"
    """The state of versions that are ready, as the index has it."""
    stream: str = ""
    """How ModelStreamInfer is: "" for not there, "triton", "old triton" or "mlserver"."""
    refusals: list[Refused] = field(default_factory=list)
    """What the next requests of predictions get."""
    inferred: list[pb.ModelInferRequest] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    streams: int = 0
    loaded: list[str] = field(default_factory=list)

    def answer(self, method: str, body: bytes) -> Message:
        self.calls.append(method.removeprefix(SERVICE))
        match method.removeprefix(SERVICE):
            case "ModelInfer":
                return self.infer(pb.ModelInferRequest.FromString(body))
            case "ModelMetadata" if self.has_metadata:
                asked = pb.ModelMetadataRequest.FromString(body)
                return self._metadata(asked.name, asked.version)
            case "ServerReady":
                return pb.ServerReadyResponse(ready=self.is_ready)
            case "ModelReady":
                ready = pb.ModelReadyRequest.FromString(body)
                self._find(ready.name, ready.version)
                return pb.ModelReadyResponse(ready=self.is_ready)
            case "RepositoryIndex" if self.has_repository:
                return self._index()
            case "RepositoryModelLoad" if self.has_repository:
                name = pb.RepositoryModelLoadRequest.FromString(body).model_name
                if name != "m":
                    raise Refused(
                        Code.INTERNAL, f"failed to load '{name}', failed to poll from repository"
                    )
                self.loaded.append(name)
                return pb.RepositoryModelLoadResponse()
            case "RepositoryModelUnload" if self.has_repository:
                self.loaded.remove(pb.RepositoryModelUnloadRequest.FromString(body).model_name)
                return pb.RepositoryModelUnloadResponse()
        raise Refused(Code.UNIMPLEMENTED, "Method not found!")

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        self.inferred.append(request)
        if self.refusals:
            raise self.refusals.pop(0)
        version = self._find(request.model_name, request.model_version)
        given = {
            tensor.name: array_of(tensor.datatype, tuple(tensor.shape), raw)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        for tensor in request.inputs:
            declared = self.inputs.get(tensor.name)
            if declared is None or declared[0] != tensor.datatype:
                raise Refused(
                    Code.INVALID_ARGUMENT, f"unexpected inference input '{tensor.name}' for 'm'"
                )
        response = pb.ModelInferResponse(
            model_name="m", model_version=version if self.tells_version else "", id=request.id
        )
        named = {output.name for output in request.outputs}
        for name, array in self.run(given).items():
            if not named or name in named:
                self._add(response, name, array)
        return response

    def _add(self, response: pb.ModelInferResponse, name: str, array: NDArray[Any]) -> None:
        datatype = BY_NUMBER[from_numpy(array.dtype)]
        output = response.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        if self.is_typed and datatype.field is not None:
            getattr(output.contents, datatype.field).extend(array.ravel().tolist())
        else:
            response.raw_output_contents.append(bytes(to_raw(array)))

    def _metadata(self, name: str, version: str) -> pb.ModelMetadataResponse:
        self._find(name, version)
        versions = [version] if version else self.versions
        response = pb.ModelMetadataResponse(name=name, platform="any")
        response.versions.extend(versions if self.tells_version else [])
        for tensors, listed in ((self.inputs, response.inputs), (self.outputs, response.outputs)):
            for tensor, (datatype, shape) in tensors.items():
                listed.add(name=tensor, datatype=datatype, shape=shape)
        return response

    def _index(self) -> pb.RepositoryIndexResponse:
        index = pb.RepositoryIndexResponse()
        for version in self.versions:
            index.models.add(name="m", version=version, state=self.ready)
        index.models.add(name="broken", version="7", state="UNAVAILABLE", reason="no such op")
        index.models.add(name="new", version="", state="LOADING")
        return index

    def _find(self, name: str, version: str) -> str:
        if name != "m":
            raise Refused(Code.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
        if version and self.tells_version and version not in self.versions:
            raise Refused(
                Code.NOT_FOUND, f"Request for unknown model: 'm' version {version} is not found"
            )
        return version or max(self.versions, default="")


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: FakeOpenInference) -> None:
        self._server = server

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if not method.startswith(SERVICE):
            return None
        if method == f"{SERVICE}ModelStreamInfer" and self._server.stream:
            return grpc.stream_stream_rpc_method_handler(self._stream)

        def handle(body: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                return self._server.answer(method, body).SerializeToString()
            except Refused as refused:
                context.abort(refused.code, refused.details)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _stream(self, sent: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._server.streams += 1
        for message in sent:
            request = pb.ModelInferRequest.FromString(message)
            streamed = pb.ModelStreamInferResponse()
            try:
                streamed.infer_response.CopyFrom(self._server.infer(request))
            except Refused as refused:
                streamed.error_message = refused.details
                if self._server.stream == "triton":
                    streamed.infer_response.id = request.id
            if self._server.stream == "mlserver":
                yield streamed.infer_response.SerializeToString()
            else:
                yield streamed.SerializeToString()


def array_of(datatype: str, shape: tuple[int, ...], raw: bytes) -> NDArray[Any]:
    """Return the array of raw bytes that are known to be good."""
    if datatype != "BYTES":
        return np.frombuffer(raw, BY_NAME[datatype].dtype).reshape(shape)
    strings: list[bytes] = []
    position = 0
    while position < len(raw):
        (length,) = LENGTH.unpack_from(raw, position)
        position += LENGTH.size + length
        strings.append(raw[position - length : position])
    array = np.empty(len(strings), object)
    array[:] = strings
    return array.reshape(shape)


@contextmanager
def listening(server: FakeOpenInference) -> Iterator[str]:
    """Put a server behind gRPC on a free port of the loopback; gives its address."""
    with ThreadPoolExecutor(8) as executor:
        grpc_server = grpc.server(executor, handlers=[_Handler(server)])
        port = grpc_server.add_insecure_port("127.0.0.1:0")
        grpc_server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            grpc_server.stop(grace=None).wait()
