"""With a full queue a request is refused undecoded, and told when to come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, refusal
from transports import MakeTransport

from ladle.protos import dtypes, tensors
from ladle.protos.ladle_pb import PredictStreamRequest, PredictStreamResponse
from ladle.protos.serving_pb import ClassificationRequest, PredictRequest
from ladle.server.call import Methods
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import Code
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.rpc.services import methods

PREDICTION = "/tensorflow.serving.PredictionService/"
STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
CLASSES = Signature(
    "classes",
    {"inputs": TensorSpec(dtypes.STRING, (-1,))},
    {"scores": TensorSpec(dtypes.from_numpy(np.dtype(np.float32)), (-1, 1))},
    "tensorflow/serving/classify",
)


@pytest.fixture
def full(make_transport: MakeTransport) -> Iterator[tuple[grpc.Channel, Callable[[], None]]]:
    """A channel to a server with one request running and one in the queue, and what ends both."""
    model = FakeServable(signatures=(*FakeServable().signatures.values(), CLASSES))
    batching = BatchingServable(model, BatchOptions(max_batch_size=1, max_enqueued_batches=1))
    manager = Manager(lambda _id, _path: batching)
    manager.aspire("m", {1: Path("/m/1")})
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    served: Methods = methods(manager, tensor_content=True)
    transport = make_transport(served, max_threads=2)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    model.hold()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"{PREDICTION}Predict"
        )
        good = predict()
        good.inputs["x"].CopyFrom(tensors.to_proto(np.ones((1, 2), np.float32)))
        futures = [call.future(good.SerializeToString(), timeout=TIMEOUT_S)]
        model.wait_until_running()
        futures.append(call.future(good.SerializeToString(), timeout=TIMEOUT_S))
        assert batching.wait_until(lambda depth: depth.requests > 0, TIMEOUT_S)

        def empty() -> None:
            model.release()
            for future in futures:
                future.result(TIMEOUT_S)

        yield channel, empty
    model.release()
    transport.stop(TIMEOUT_S)


def predict() -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = "m"
    return request


def undecodable() -> PredictRequest:
    """One value for a declared 2^41: whoever decodes it finds it wrong."""
    request = predict()
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.append(1)
    for size in (1 << 40, 2):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    return request


def empty_of_examples() -> ClassificationRequest:
    request = ClassificationRequest()
    request.model_spec.name = "m"
    request.model_spec.signature_name = "classes"
    return request


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("Predict", undecodable().SerializeToString()),
        ("Classify", empty_of_examples().SerializeToString()),
    ],
    ids=["Predict", "Classify"],
)
def test_a_call_is_refused_before_it_is_decoded(
    full: tuple[grpc.Channel, Callable[[], None]], method: str, data: bytes
) -> None:
    channel, empty = full
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICTION + method)
    with pytest.raises(grpc.RpcError) as raised:
        call(data, timeout=TIMEOUT_S)

    assert refusal(raised.value)[0] == "UNAVAILABLE"
    told = {item.key: str(item.value) for item in raised.value.trailing_metadata()}
    assert int(told["grpc-retry-pushback-ms"]) > 0
    empty()
    with pytest.raises(grpc.RpcError) as raised:
        call(data, timeout=TIMEOUT_S)
    assert refusal(raised.value)[0] == "INVALID_ARGUMENT"


def test_a_request_of_a_stream_is_refused_before_it_is_decoded(
    full: tuple[grpc.Channel, Callable[[], None]],
) -> None:
    channel, empty = full
    message = PredictStreamRequest(id=1, request=undecodable()).SerializeToString()
    go_on = threading.Event()

    def requests() -> Iterator[bytes]:
        yield message
        assert go_on.wait(TIMEOUT_S)
        yield message

    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(STREAM)
    answers = map(PredictStreamResponse.FromString, call(requests(), timeout=TIMEOUT_S))
    assert next(answers).HasField("start")
    assert next(answers).error.error_code == Code.UNAVAILABLE
    empty()
    go_on.set()
    assert next(answers).error.error_code == Code.INVALID_ARGUMENT
