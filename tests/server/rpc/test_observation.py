from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fakes import TIMEOUT_S, FakeServable, refusal
from transports import MakeTransport

from ladle.protos import tensors
from ladle.protos.ladle_pb import PredictChunk, PredictStreamRequest, PredictStreamResponse
from ladle.protos.serving_pb import GetModelStatusRequest, PredictRequest
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import Cancelled
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation, Run, Unobserved
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.services import methods

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
STREAM = "/ladle.v1.StreamingPrediction/PredictStream"
CHUNKS = "/ladle.v1.StreamingPrediction/PredictInChunks"


class Notebook(Unobserved):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.requests: queue.Queue[tuple[Observation, bytes | None]] = queue.Queue()
        self.runs: queue.Queue[tuple[Run, int]] = queue.Queue()

    def request_ended(self, request: Observation) -> None:
        self.requests.put((request, request.request))

    def run_ended(self, run: Run) -> None:
        self.runs.put((run, len(run.requests)))

    def next(self) -> Observation:
        return self.requests.get(timeout=TIMEOUT_S)[0]


class Served:
    """A server of the model `m`, version 3, which doubles; what is seen of it; a channel to it."""

    def __init__(self, make_transport: MakeTransport) -> None:
        self.seen = Notebook()
        self.model = FakeServable()
        self.batching = BatchingServable(
            self.model,
            BatchOptions(max_batch_size=4, max_enqueued_batches=1),
            observer=self.seen,
            servable_id=ServableId("m", 3),
        )
        manager = Manager(lambda _id, _path: self.batching)
        manager.aspire("m", {3: Path("/m/3")})
        assert manager.wait_until_settled(["m"], TIMEOUT_S)
        self.transport = make_transport(
            methods(manager, tensor_content=True, observer=self.seen), max_threads=2
        )
        port = self.transport.listen("127.0.0.1:0")
        self.transport.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(self, method: str, message: bytes) -> bytes:
        call: Any = self.channel.unary_unary(method, None, None)
        return bytes(call(message, timeout=TIMEOUT_S))

    def begin(self, rows: int = 1, timeout: float = TIMEOUT_S) -> Any:
        call: Any = self.channel.unary_unary(PREDICT, None, None)
        return call.future(request(rows), timeout=timeout)


@pytest.fixture
def served(make_transport: MakeTransport) -> Iterator[Served]:
    served = Served(make_transport)
    yield served
    served.model.release()
    served.channel.close()
    served.transport.stop(TIMEOUT_S)


def request(rows: int = 1, model: str = "m", fill: float = 1.0) -> bytes:
    message = PredictRequest()
    message.model_spec.name = model
    message.inputs["x"].CopyFrom(tensors.to_proto(np.full((rows, 2), fill, np.float32)))
    return message.SerializeToString()


def test_a_request_is_seen_from_its_start_to_its_answer(served: Served) -> None:
    sent = request(rows=2)
    answer = served.call(PREDICT, sent)

    seen, message = served.seen.requests.get(timeout=TIMEOUT_S)
    assert (seen.api, seen.entrypoint, seen.code.name) == ("Predict", "GRPC", "OK")
    assert (seen.model, seen.version, seen.signatures) == ("m", 3, ("serving_default",))
    assert (seen.rows, seen.request_bytes, seen.response_bytes) == (2, len(sent), len(answer))
    assert message == sent
    assert seen.request is None, "nothing large is held on to"
    run, requests = served.seen.runs.get(timeout=TIMEOUT_S)
    assert seen.run is run
    assert (run.servable_id, run.signatures, run.rows, requests) == (
        ("m", 3),
        seen.signatures,
        2,
        1,
    )
    times = (
        seen.began,
        seen.queued,
        run.started,
        run.assembled,
        run.computed,
        run.ended,
        seen.encoding,
        seen.ended,
    )
    assert all(time is not None for time in times)
    assert sorted(times) == list(times)  # type: ignore[type-var]


def test_a_refused_request_is_seen_with_its_error(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.call(PREDICT, request(model="nobody"))

    seen = served.seen.next()
    assert (seen.code.name, seen.error and seen.error.message) == refusal(caught.value)
    assert (seen.model, seen.version, seen.run) == ("nobody", None, None)


def test_bytes_that_are_no_request_are_seen(served: Served) -> None:
    for method in (PREDICT, STATUS):
        with pytest.raises(grpc.RpcError):
            served.call(method, b"\xff\xff\xff")

    assert {served.seen.next().api for _ in range(2)} == {"Predict", "GetModelStatus"}


def test_a_status_request_is_seen_with_its_model(served: Served) -> None:
    asked = GetModelStatusRequest()
    asked.model_spec.name = "m"
    served.call(STATUS, asked.SerializeToString())

    seen = served.seen.next()
    assert (seen.api, seen.model, seen.code.name) == ("GetModelStatus", "m", "OK")


def test_a_batch_that_fails_and_is_run_again_is_seen_run_by_run(served: Served) -> None:
    """The neighbour of a bad request ends well, in a run of its own."""
    served.model.hold()
    first = served.begin()
    served.model.wait_until_running()
    call: Any = served.channel.unary_unary(PREDICT, None, None)
    bad = call.future(request(fill=float("nan")), timeout=TIMEOUT_S)
    good = served.begin()
    assert_waiting(served, 2)
    served.model.release()

    first.result()
    good.result()
    with pytest.raises(grpc.RpcError):
        bad.result()
    codes = sorted(served.seen.next().code.name for _ in range(3))
    assert codes == ["OK", "OK", "UNKNOWN"]
    runs = [served.seen.runs.get(timeout=TIMEOUT_S)[0] for _ in range(4)]
    assert sorted((run.rows, run.failed) for run in runs) == [
        (1, False),
        (1, False),
        (1, True),
        (2, True),
    ]


def test_a_caller_who_goes_away_and_one_who_is_late_are_seen(served: Served) -> None:
    served.model.hold()
    running = served.begin()
    served.model.wait_until_running()
    gone = served.begin()
    assert_waiting(served, 1)
    gone.cancel()

    assert served.seen.next().code.name == "CANCELLED"
    late = served.begin(timeout=1.0)
    # A caller whose deadline passes says so, and may be heard before the server's own clock.
    assert served.seen.next().code.name in ("DEADLINE_EXCEEDED", "CANCELLED")
    with pytest.raises(grpc.RpcError):
        late.result()
    served.model.release()
    running.result()
    assert served.seen.next().code.name == "OK"
    assert served.seen.requests.empty()


def test_a_full_queue_is_seen(served: Served) -> None:
    served.model.hold()
    running = served.begin()
    served.model.wait_until_running()
    waiting = served.begin(rows=4)
    assert_waiting(served, 1)
    with pytest.raises(grpc.RpcError):
        served.begin().result()

    seen = served.seen.next()
    assert (seen.code.name, seen.model, seen.queued) == ("UNAVAILABLE", "m", None)
    served.model.release()
    running.result()
    waiting.result()


def test_each_message_of_a_stream_is_seen(served: Served) -> None:
    messages = [
        PredictStreamRequest(id=n, request=PredictRequest.FromString(request(model=model)))
        for n, model in enumerate(["m", "nobody", "m"])
    ]
    call: Any = served.channel.stream_stream(
        STREAM, PredictStreamRequest.SerializeToString, PredictStreamResponse.FromString
    )
    answers = list(call(iter(messages), timeout=TIMEOUT_S))

    assert len(answers) == 4, "the window, and an answer each"
    seen = [served.seen.next() for _ in messages]
    assert sorted((s.api, s.model, s.code.name) for s in seen) == [
        ("PredictStream", "m", "OK"),
        ("PredictStream", "m", "OK"),
        ("PredictStream", "nobody", "NOT_FOUND"),
    ]


def test_a_stream_that_is_cut_off_leaves_no_request_unseen(served: Served) -> None:
    served.model.hold()
    more = threading.Event()

    def requests() -> Iterator[bytes]:
        for _ in range(3):
            yield PredictStreamRequest(
                request=PredictRequest.FromString(request())
            ).SerializeToString()
        more.wait(TIMEOUT_S)

    call: Any = served.channel.stream_stream(STREAM, None, None)
    stream = call(requests(), timeout=TIMEOUT_S)
    served.model.wait_until_running()
    assert_waiting(served, 3 - served.model.batches[0])
    stream.cancel()
    more.set()

    assert [served.seen.next().code.name for _ in range(3)] == ["CANCELLED"] * 3
    served.model.release()


def test_an_answer_in_chunks_is_seen_once_with_all_its_bytes(served: Served) -> None:
    call: Any = served.channel.stream_stream(CHUNKS, None, None)
    chunks = list(call(iter([request(rows=3)]), timeout=TIMEOUT_S))

    assert PredictChunk.FromString(chunks[0]).total_rows == 3
    seen = served.seen.next()
    assert (seen.api, seen.rows, seen.code.name) == ("PredictInChunks", 3, "OK")
    assert seen.response_bytes == sum(map(len, chunks))


def assert_waiting(served: Served, requests: int) -> None:
    """Wait until so many requests are in the queue."""
    assert served.batching.wait_until(lambda depth: depth.requests == requests, TIMEOUT_S)


@pytest.mark.parametrize("method", [PREDICT, STATUS])
def test_an_observer_that_fails_keeps_no_answer_from_its_caller(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(_: Observation) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(served.seen, "request_ended", fail)
    status = GetModelStatusRequest()
    status.model_spec.name = "m"

    assert served.call(method, request() if method == PREDICT else status.SerializeToString())
    with pytest.raises(grpc.RpcError) as raised:
        served.call(PREDICT, request(fill=float("nan")))
    assert refusal(raised.value)[1] == "x: expected numbers, got NaN"


def test_what_is_kept_of_a_refused_request_does_not_hold_the_request(served: Served) -> None:
    with pytest.raises(grpc.RpcError):
        served.call(PREDICT, request(model="absent"))
    with pytest.raises(grpc.RpcError):
        served.call(PREDICT, request(fill=float("nan")))

    for seen in (served.seen.next(), served.seen.next()):
        error = seen.error
        assert error is not None
        assert seen.request is None
        assert error.__traceback__ is None
        assert error.__cause__ is None
        assert error.__context__ is None


def test_of_an_answer_and_a_leaving_at_the_same_time_one_ends_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Observation("Predict", "GRPC", b"")
    notebook = Notebook()

    def leave() -> float:
        monkeypatch.undo()
        seen.end(Cancelled("the caller went away"), notebook)
        return 1.0

    monkeypatch.setattr("ladle.server.core.observation.time.monotonic", leave)
    seen.end(b"answer", notebook)

    assert notebook.next() is seen
    assert notebook.requests.empty()


def test_a_long_name_of_a_model_is_cut(served: Served) -> None:
    """It is the caller's, and may be as long as a request."""
    with pytest.raises(grpc.RpcError):
        served.call(PREDICT, request(model="m" * 1_000_000))

    assert served.seen.next().model == "m" * 1024
