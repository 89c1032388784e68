"""What a request leaves behind once its answer is there."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, until

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rpc.queued import QueuedRequest
from ladle.server.rpc.services import methods
from ladle.server.transport.grpcio.transport import GrpcioTransport


@pytest.fixture
def channel() -> Iterator[grpc.Channel]:
    """A channel to a server whose model has a queue."""
    manager = Manager(lambda servable_id, path: BatchingServable(FakeServable(), BatchOptions()))
    manager.aspire("m", {1: Path("/1")})
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    transport = GrpcioTransport(methods(manager, tensor_content=False), max_threads=4)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    transport.stop(TIMEOUT_S)


def test_an_answered_request_is_freed_without_the_collector(channel: grpc.Channel) -> None:
    """Garbage causes full collections, and a full collection stops every thread."""
    message = PredictRequest()
    message.model_spec.name = "m"
    message.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 2), np.float32)))
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        "/tensorflow.serving.PredictionService/Predict"
    )

    def alive() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, QueuedRequest)]

    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call(message.SerializeToString(), timeout=TIMEOUT_S)
        until(lambda: not alive())
    finally:
        gc.enable()
