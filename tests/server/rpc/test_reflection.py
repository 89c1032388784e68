"""Reflection, driven by the client that grpcio-reflection brings."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader, refusal
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from transports import MakeTransport

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rpc.services import methods

SERVED = {
    "ladle.v1.StreamingPrediction",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
}
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
V1 = "grpc.reflection.v1.ServerReflection"
V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"


@pytest.fixture
def channel(make_transport: MakeTransport) -> Iterator[grpc.Channel]:
    served = methods(Manager(FakeLoader()), tensor_content=False)
    transport = make_transport(served, max_threads=2)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    transport.stop(TIMEOUT_S)


class Stream:
    """An open reflection stream, to which requests can be sent one by one."""

    def __init__(self, channel: grpc.Channel, service: str = V1) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._responses: Any = channel.stream_stream(
            f"/{service}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )(iter(self._requests.get, None), timeout=TIMEOUT_S)

    def ask(self, **fields: Any) -> Any:
        self._requests.put(reflection_pb2.ServerReflectionRequest(**fields))
        return next(self._responses)

    def close(self) -> None:
        self._requests.put(None)
        assert list(self._responses) == []


def test_tools_find_the_services_that_are_served(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)

    assert set(database.get_services()) == SERVED


def test_tools_find_the_messages(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    request = pool.FindMessageTypeByName("tensorflow.serving.PredictRequest")
    assert request.fields_by_name["inputs"].number == 2
    service = pool.FindServiceByName("tensorflow.serving.PredictionService")
    assert service.methods_by_name["Predict"].input_type is request


@pytest.mark.parametrize("service", [V1, V1ALPHA])
def test_both_versions_answer(channel: grpc.Channel, service: str) -> None:
    stream = Stream(channel, service)

    answer = stream.ask(file_containing_symbol="tensorflow.serving.ModelSpec")
    assert len(answer.file_descriptor_response.file_descriptor_proto) >= 1
    assert {s.name for s in stream.ask(list_services="").list_services_response.service} == SERVED
    stream.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"file_by_filename": "../../etc/passwd"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": ".." * 10_000},
        {"all_extension_numbers_of_type": "no.such.Type"},
        {"file_containing_extension": {"containing_type": "nope", "extension_number": -1}},
        {"file_containing_extension": {"containing_type": "tensorflow.serving.ModelSpec"}},
    ],
)
def test_nonsense_gets_an_error_and_the_stream_goes_on(
    channel: grpc.Channel, fields: dict[str, Any]
) -> None:
    stream = Stream(channel)

    assert stream.ask(**fields).error_response.error_code in (3, 5)
    assert stream.ask(list_services="").HasField("list_services_response")
    stream.close()


def test_streams_that_stay_open_hold_up_neither_requests_nor_the_server(
    channel: grpc.Channel,
) -> None:
    streams = [Stream(channel) for _ in range(8)]
    for stream in streams:
        stream.ask(list_services="")

    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(STATUS)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=TIMEOUT_S)
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "Missing ModelSpec")

    for stream in streams:
        stream.close()
    Stream(channel).ask(list_services="")


@pytest.mark.parametrize(
    "symbol",
    [
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.PredictionService.Predict",
        "inference.GRPCInferenceService.ModelInfer",
        "tensorflow.serving.PredictRequest.model_spec",
        "tensorflow.serving.ModelSpec.version_choice",
        "tensorflow.DataType",
        "tensorflow.DT_FLOAT",
    ],
)
def test_every_kind_of_symbol_leads_to_its_file(channel: grpc.Channel, symbol: str) -> None:
    stream = Stream(channel)
    found = stream.ask(file_containing_symbol=symbol)
    assert found.file_descriptor_response.file_descriptor_proto
    unknown = stream.ask(file_containing_symbol=f"{symbol}.Nothing")
    assert unknown.error_response.error_code == 5
    stream.close()
