from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, refusal, spec, until
from numpy.typing import NDArray
from transports import MakeTransport

from ladle.protos import tensors
from ladle.protos.ladle_pb import PredictChunk, PredictStreamRequest, PredictStreamResponse
from ladle.protos.serving_pb import PredictRequest
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth
from ladle.server.core.errors import Code
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.prediction.predict import Predict
from ladle.server.rpc.prediction.stream import predict_stream
from ladle.server.rpc.services import methods
from ladle.server.rpc.streaming.read_ahead import ReadAheadWindow

WIDE = Signature(name="wide", inputs={"x": spec(-1, 2)}, outputs={"y": spec(-1, 100_000)})
MAGIC = 12345.0
STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
CHUNKS = "/ladle.v1.StreamingPrediction/PredictInChunks"


def compute(inputs: Any) -> dict[str, NDArray[Any]]:
    """y = 2 x; after the magic number, one value again and again."""
    x = inputs["x"]
    if (x == MAGIC).any():
        return {"y": np.repeat(x[:, :1], 100_000, axis=1)}
    return {"y": x * 2}


UNLIMITED = Limits(1 << 30, ByteBudget(1 << 40))


class Served:
    """A server whose model doubles, and a channel to it."""

    def __init__(
        self,
        make_transport: MakeTransport,
        window: ReadAheadWindow,
        loaded: threading.Event | None,
        limits: Limits,
    ) -> None:
        self.model = FakeServable(compute, (*FakeServable().signatures.values(), WIDE))
        self.batching = BatchingServable(self.model, BatchOptions(max_batch_size=100_000))

        def load(_id: ServableId, _path: Path) -> BatchingServable:
            assert loaded is None or loaded.wait(TIMEOUT_S)
            return self.batching

        manager = Manager(load, ManagerOptions(max_waiting_requests=1))
        manager.aspire("m", {3: Path("/m/3")})
        if loaded is None:
            assert manager.wait_until_settled(["m"], TIMEOUT_S)
        predict = Predict(tensor_content=True)
        served = {
            **methods(manager, tensor_content=True),
            STREAM: predict_stream(manager, predict, window),
        }
        self.transport = make_transport(served, max_threads=2, limits=limits)
        port = self.transport.listen("127.0.0.1:0")
        self.transport.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")


@pytest.fixture
def serve(make_transport: MakeTransport) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def serve(
        window: ReadAheadWindow | None = None,
        loaded: threading.Event | None = None,
        limits: Limits | None = None,
    ) -> Served:
        limits = limits or Limits(1 << 30, ByteBudget(1 << 40))
        made.append(Served(make_transport, window or ReadAheadWindow(), loaded, limits))
        return made[-1]

    yield serve
    for served in made:
        served.model.release()
        served.channel.close()
        served.transport.stop(TIMEOUT_S)


class Client:
    """One stream: what it sends is put, what comes is got."""

    def __init__(self, served: Served) -> None:
        self.sending: queue.Queue[PredictStreamRequest | bytes | None] = queue.Queue()
        self.taken = 0
        call: Any = served.channel.stream_stream(STREAM, None, PredictStreamResponse.FromString)
        self.call = call(self._requests(), timeout=TIMEOUT_S)
        self.start = self.get().start

    def _requests(self) -> Iterator[bytes]:
        while (item := self.sending.get()) is not None:
            self.taken += 1
            yield item if isinstance(item, bytes) else item.SerializeToString()

    def send(self, request_id: int, x: Any, **options: Any) -> None:
        message = PredictStreamRequest(id=request_id, **options)
        message.request.CopyFrom(request(x))
        self.sending.put(message)

    def get(self) -> PredictStreamResponse:
        response: PredictStreamResponse = next(self.call)
        return response

    def finish(self) -> None:
        self.sending.put(None)


def request(x: Any, signature: str = "") -> PredictRequest:
    message = PredictRequest()
    message.model_spec.name = "m"
    message.model_spec.signature_name = signature
    message.inputs["x"].CopyFrom(tensors.to_proto(np.asarray(x, np.float32)))
    return message


def outputs(response: PredictStreamResponse) -> Any:
    return tensors.to_array(response.response.outputs["y"]).tolist()


Serve = Callable[..., Served]


def test_each_request_gets_its_answer_under_its_id_in_order(serve: Serve) -> None:
    client = Client(serve())
    for n in range(200):
        client.send(n, [[n, -n]])
    client.finish()

    answers = list(client.call)
    assert [answer.id for answer in answers] == list(range(200))
    assert [outputs(a) for a in answers] == [[[2 * n, -2 * n]] for n in range(200)]
    assert client.call.code() is grpc.StatusCode.OK


def test_the_window_is_announced_before_anything_is_read(serve: Serve) -> None:
    client = Client(serve(ReadAheadWindow(requests=5, nbytes=1000)))

    assert (client.start.window_requests, client.start.window_bytes) == (5, 1000)
    client.finish()
    assert list(client.call) == []


def test_an_error_belongs_to_its_request(serve: Serve) -> None:
    client = Client(serve())
    client.send(1, [[1, 1]])
    client.send(2, [1, 2, 3, 4])
    client.sending.put(PredictStreamRequest(id=3))
    client.send(4, [[4, 4]])
    client.finish()

    first, second, third, fourth = client.call
    assert outputs(first) == [[2, 2]]
    assert second.id == 2
    assert third.error.error_code == Code.INVALID_ARGUMENT
    assert third.error.error_message == "Missing ModelSpec"
    assert outputs(fourth) == [[8, 8]]


def test_answers_come_as_they_are_ready_if_asked(serve: Serve) -> None:
    served = serve()
    served.model.hold()
    client = Client(served)
    client.send(1, [[1, 1]], answer_as_ready=True)
    served.model.wait_until_running()
    client.sending.put(PredictStreamRequest(id=2))

    assert client.get().id == 2
    served.model.release()
    assert client.get().id == 1


def test_bytes_that_are_no_request_end_the_stream(serve: Serve) -> None:
    client = Client(serve())
    client.send(1, [[1, 1]])
    client.sending.put(b"\xff")

    assert client.get().id == 1
    with pytest.raises(grpc.RpcError) as raised:
        client.get()
    assert refusal(raised.value)[0] == "INVALID_ARGUMENT"


def test_no_more_is_read_than_the_window_holds(serve: Serve) -> None:
    """While the model runs, what was read waits in its queue: there the window shows."""
    served = serve(ReadAheadWindow(requests=4, nbytes=1 << 20))
    served.model.hold()
    client = Client(served)
    for n in range(100):
        client.send(n, [[n, n]])
    served.model.wait_until_running()
    runs = served.model.batches[0]
    assert served.batching.wait_until(lambda depth: depth.requests + runs >= 4, TIMEOUT_S)

    assert not threading.Event().wait(0.05)  # for what must not come
    assert served.batching.depth.requests + runs == 4
    served.model.release()
    assert [client.get().id for _ in range(100)] == list(range(100))


def test_a_reader_that_stops_stops_the_server_from_reading(serve: Serve) -> None:
    """Answers wait for the reader, and hold their place in the window."""
    served = serve(ReadAheadWindow(requests=8, nbytes=1 << 20))
    client = Client(served)
    row = [[MAGIC, MAGIC]]
    for n in range(200):
        message = PredictStreamRequest(id=1000 + n)
        message.request.CopyFrom(request(row, "wide"))
        client.sending.put(message)
    size = len(message.SerializeToString())

    def has_stopped() -> bool:
        seen = sum(served.model.batches)
        is_full = served.transport.limits.budget.used == 8 * size
        answered = is_full and served.batching.depth == QueueDepth()
        return answered and not passing.wait(0.1) and sum(served.model.batches) == seen

    passing = threading.Event()  # never set: it only passes the time
    until(has_stopped)

    # 400 kB each: the window's, and what fits into the buffers of the connection.
    assert sum(served.model.batches) < 60
    assert [client.get().id for _ in range(200)] == list(range(1000, 1200))


def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(serve: Serve) -> None:
    served = serve()
    served.model.hold()
    client = Client(served)
    client.send(1, [[1, 1]])
    served.model.wait_until_running()
    for n in range(5):
        client.send(n, [[n, n]])
    assert served.batching.wait_until(lambda depth: depth.requests == 5, TIMEOUT_S)
    client.call.cancel()

    assert served.batching.wait_until(lambda depth: not depth.requests, TIMEOUT_S)
    served.model.release()
    assert served.model.batches == [1]


def test_a_stream_ends_when_the_server_stops(serve: Serve) -> None:
    served = serve()
    client = Client(served)
    client.send(1, [[1, 1]])
    assert client.get().id == 1

    stopping = threading.Thread(target=served.transport.stop, args=(TIMEOUT_S,))
    stopping.start()
    with pytest.raises(grpc.RpcError) as raised:
        client.get()
    stopping.join(TIMEOUT_S)

    assert refusal(raised.value) == (
        "UNAVAILABLE",
        "the server is stopping: send the rest to another",
    )


def test_a_request_of_a_stream_waits_for_a_models_first_version(serve: Serve) -> None:
    """As a unary call does; the others of the stream go on, and no more wait than may."""
    loaded = threading.Event()
    client = Client(serve(loaded=loaded))
    client.send(1, [[1, 1]], answer_as_ready=True)
    client.send(2, [[2, 2]])
    unknown = PredictStreamRequest(id=3)
    unknown.request.model_spec.name = "unknown"
    client.sending.put(unknown)

    refused = {answer.id: answer.error for answer in (client.get(), client.get())}
    assert refused.pop(3).error_code == Code.NOT_FOUND
    ((crowded, error),) = refused.items()
    assert error.error_code == Code.UNAVAILABLE
    assert "1 requests wait already" in error.error_message
    loaded.set()
    answer = client.get()
    assert answer.id == 3 - crowded
    assert outputs(answer) == [[2 * answer.id, 2 * answer.id]]


def test_a_request_for_chunks_waits_for_a_models_first_version(serve: Serve) -> None:
    loaded = threading.Event()
    served = serve(loaded=loaded)
    call: Any = served.channel.unary_stream(CHUNKS, None, PredictChunk.FromString)
    received = call(request([[1, 2]]).SerializeToString(), timeout=TIMEOUT_S)
    loaded.set()

    (chunk,) = received
    assert tensors.to_array(chunk.response.outputs["y"]).tolist() == [[2, 4]]


def test_the_bytes_of_a_stream_count_with_those_of_all_requests(serve: Serve) -> None:
    """Past the budget a request is refused under its id, and what was taken is given back."""
    size = len(PredictStreamRequest(id=1, request=request([[1, 1]])).SerializeToString())
    served = serve(limits=Limits(1 << 30, ByteBudget(2 * size)))
    budget = served.transport.limits.budget
    served.model.hold()
    client = Client(served)
    for n in range(1, 4):
        client.send(n, [[n, n]])
    served.model.wait_until_running()
    until(lambda: budget.used == 2 * size)
    with pytest.raises(grpc.RpcError) as raised:
        chunks(served, request([[1, 1]]))
    assert refusal(raised.value)[0] == "RESOURCE_EXHAUSTED"
    served.model.release()

    first, second, third = client.get(), client.get(), client.get()
    assert (outputs(first), outputs(second)) == ([[2, 2]], [[4, 4]])
    assert third.id == 3
    assert third.error.error_code == Code.RESOURCE_EXHAUSTED
    assert "(--max_inflight_bytes)" in third.error.error_message
    assert budget.used == 0
    client.send(4, [[4, 4]])
    assert outputs(client.get()) == [[8, 8]]


def test_a_stream_that_is_cancelled_gives_its_bytes_back(serve: Serve) -> None:
    served = serve()
    served.model.hold()
    client = Client(served)
    client.send(1, [[1, 1]])
    served.model.wait_until_running()
    assert served.transport.limits.budget.used > 0
    client.call.cancel()

    until(lambda: not served.transport.limits.budget.used)


def test_too_large_a_request_of_a_stream_fails_alone(serve: Serve) -> None:
    client = Client(serve(limits=Limits(1000, ByteBudget(1 << 40))))
    client.send(1, [[0, 0]] * 200)
    client.send(2, [[2, 2]])

    refused, answered = client.get(), client.get()
    assert refused.error.error_code == Code.RESOURCE_EXHAUSTED
    assert "more than the 1000 of --max_request_bytes" in refused.error.error_message
    assert outputs(answered) == [[4, 4]]


def test_a_large_request_of_a_stream_is_read_and_answered_under_its_id(serve: Serve) -> None:
    client = Client(serve())
    large = PredictStreamRequest(id=1, request=request(np.ones((5 << 20, 2)), "none"))
    client.sending.put(large)
    client.send(2, [[2, 2]])

    refused, answered = client.get(), client.get()
    assert refused.id == 1
    assert 'signature key "none" not found' in refused.error.error_message
    assert outputs(answered) == [[4, 4]]


def test_what_gathers_to_much_is_read_off_the_network_thread(serve: Serve) -> None:
    """In order all the same, and in as many batches as it takes."""
    client = Client(serve())
    for n in range(20):
        client.send(n, np.full((10_000, 2), n))
    client.finish()

    answers = list(client.call)
    assert [answer.id for answer in answers] == list(range(20))
    assert [outputs(answer)[-1] for answer in answers] == [[2 * n, 2 * n] for n in range(20)]


def chunks(served: Served, message: PredictRequest) -> list[PredictChunk]:
    call: Any = served.channel.unary_stream(CHUNKS, None, PredictChunk.FromString)
    return list(call(message.SerializeToString(), timeout=TIMEOUT_S))


def test_a_large_answer_comes_in_chunks_below_4_mb(serve: Serve) -> None:
    """A client's own limit is 4 MiB unless it says otherwise, as this one doesn't."""
    rows = np.full((64, 2), MAGIC, np.float32)
    rows[:, 0] = np.arange(64)

    received = chunks(serve(), request(rows, "wide"))

    assert len(received) > 5
    assert {chunk.total_rows for chunk in received} == {64}
    parts = [tensors.to_array(chunk.response.outputs["y"]) for chunk in received]
    assert [chunk.first_row for chunk in received] == [
        sum(map(len, parts[:n])) for n in range(len(parts))
    ]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 5], np.arange(64))


def test_a_small_answer_is_one_chunk(serve: Serve) -> None:
    (chunk,) = chunks(serve(), request([[1, 2]]))

    assert tensors.to_array(chunk.response.outputs["y"]).tolist() == [[2, 4]]
    assert (chunk.first_row, chunk.total_rows) == (0, 1)


def test_a_wrong_request_for_chunks_gets_its_status(serve: Serve) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        chunks(serve(), PredictRequest())

    assert refusal(raised.value) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_chunks_that_nobody_wants_any_more_are_not_made(serve: Serve) -> None:
    """Their request's bytes are given back, and the model serves the next one."""
    served = serve()
    rows = np.full((64, 2), MAGIC, np.float32)
    call: Any = served.channel.unary_stream(CHUNKS, None, PredictChunk.FromString)
    received = call(request(rows, "wide").SerializeToString(), timeout=TIMEOUT_S)
    assert next(received).total_rows == 64
    assert served.transport.limits.budget.used > 0
    received.cancel()

    until(lambda: not served.transport.limits.budget.used)
    (chunk,) = chunks(served, request([[1, 2]]))
    assert tensors.to_array(chunk.response.outputs["y"]).tolist() == [[2, 4]]
