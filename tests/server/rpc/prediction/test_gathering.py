"""When requests of a stream begin, driven message by message; the batches show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TIMEOUT_S, FakePending, FakeServable

from ladle.protos import tensors, wire
from ladle.protos.ladle_pb import PredictChunk, PredictStreamRequest, PredictStreamResponse
from ladle.server.core.errors import ResourceExhausted, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.machine import malloc
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.core.servable import Arrays, Done, Servable, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.prediction.chunks import chunks, predict_in_chunks
from ladle.server.rpc.prediction.predict import Predict, encode_response
from ladle.server.rpc.prediction.stream import predict_stream
from ladle.server.rpc.streaming.read_ahead import Accumulator, ReadAheadWindow


class Left(FakePending):
    """A request that tells when it is left."""

    def __init__(self, left: list[None]) -> None:
        self._left = left

    def cancel(self) -> None:
        self._left.append(None)


class Queued(FakeServable):
    """Runs nothing until it is told to; then all that has been submitted, as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Arrays, Done]] = []
        self.left: list[None] = []

    def submit(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        done: Done,
        deadline: float | None = None,
        observation: object = None,
    ) -> FakePending:
        self.waiting.append((inputs, done))
        return Left(self.left)

    def run_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        afterwards = [done({"y": inputs["x"] * 2}) for inputs, done in waiting]
        for then in dict.fromkeys(then for each in afterwards for then in each or ()):
            then()


class FakeStream:
    """A Stream whose transport is the test."""

    local = False
    deadline = None

    def __init__(self) -> None:
        self.receiver: Callable[[bytes | None], None] | None = None
        self.idle: Callable[[], None] | None = None
        self.sent: Callable[[], None] | None = None
        self.answers: list[tuple[int, bool]] = []
        self.sent_bytes: list[int] = []
        self.ended: list[ServingError | None] = []
        self.work: list[Callable[[], None]] = []
        self.reserved = 0
        self.room = 1 << 30

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        self.go = callback

    def on_stop(self, callback: Callable[[], None]) -> None:
        pass

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        assert self.receiver is None
        self.receiver = callback

    def on_idle(self, callback: Callable[[], None]) -> None:
        assert self.idle is None
        self.idle = callback

    def in_thread(self, work: Callable[[], None], *, waits: bool = False) -> None:
        self.work.append(work)

    def reserve(self, nbytes: int) -> None:
        if self.reserved + nbytes > self.room:
            raise ResourceExhausted("no room")
        self.reserved += nbytes

    def give_back(self, nbytes: int) -> None:
        self.reserved -= nbytes

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        assert self.sent is None
        self.sent_bytes.append(len(message))
        self.answers.append((PredictStreamResponse.FromString(message).id, more))
        self.sent = sent

    def end(self, error: ServingError | None = None) -> None:
        self.ended.append(error)

    def come(self, *numbers: int, rows: int = 1, as_ready: bool = False) -> None:
        """Let requests come, as far as they are asked for."""
        for number in numbers:
            self.come_as(request(number, rows, as_ready))

    def finish(self) -> None:
        self.come_as(None)

    def come_as(self, message: bytes | None) -> None:
        receiver, self.receiver = self.receiver, None
        assert receiver is not None, "nothing was asked for"
        receiver(message)

    def become_idle(self) -> None:
        idle, self.idle = self.idle, None
        assert idle is not None, "nothing waits for an idle stream"
        idle()

    def take(self) -> None:
        """Let the connection take what is being sent."""
        sent, self.sent = self.sent, None
        assert sent is not None, "nothing is being sent"
        sent()


def request(number: int, rows: int = 1, as_ready: bool = False) -> bytes:
    message = PredictStreamRequest(id=number, answer_as_ready=as_ready)
    message.request.model_spec.name = "m"
    x = np.full((rows, 2), number, np.float32)
    message.request.inputs["x"].CopyFrom(tensors.to_proto(x))
    return message.SerializeToString()


@pytest.fixture
def model() -> Queued:
    return Queued()


@pytest.fixture
def manager(model: Queued) -> Manager:
    def load(_id: object, _path: Path) -> Servable:
        return model

    manager = Manager(load)
    manager.aspire("m", {1: Path("/m/1")})
    assert manager.wait_until_settled(["m"], TIMEOUT_S)
    return manager


@pytest.fixture
def stream(manager: Manager) -> FakeStream:
    """A stream with a window of 8 requests, or 1 MiB, that has begun."""
    stream = FakeStream()
    predict = Predict(tensor_content=True)
    predict_stream(manager, predict, ReadAheadWindow(requests=8, nbytes=1 << 20)).handle(stream)
    stream.take()
    return stream


def test_requests_begin_together_once_no_more_is_there(stream: FakeStream, model: Queued) -> None:
    stream.come(1)
    assert stream.receiver is not None, "the next one is asked for before idleness is"
    stream.come(2)
    stream.become_idle()
    assert not model.waiting, "one came since idleness was asked for, so more may be there"
    stream.become_idle()

    assert len(model.waiting) == 2


def test_half_a_window_begins_at_once(stream: FakeStream, model: Queued) -> None:
    stream.come(1, 2, 3)
    assert not model.waiting
    stream.come(4)

    assert len(model.waiting) == 4
    stream.come(5, 6, 7, 8)
    assert len(model.waiting) == 8
    assert stream.receiver is None, "the window is full"


def test_half_a_windows_bytes_begin_in_a_thread(stream: FakeStream, model: Queued) -> None:
    """Reading so much would hold up all other calls."""
    stream.come(1, rows=1 << 16)
    assert not model.waiting
    (work,) = stream.work
    stream.come(2, 3, 4, 5)
    assert len(stream.work) == 1, "what comes later waits for its turn"
    work()

    assert [int(inputs["x"][0, 0]) for inputs, _ in model.waiting] == [1, 2, 3, 4, 5]


def test_a_caller_who_goes_before_its_requests_begin_has_none_of_them_run(
    stream: FakeStream, model: Queued
) -> None:
    stream.come(1, rows=1 << 16)
    (work,) = stream.work
    stream.come(2)
    stream.go()
    work()

    assert not model.waiting


def test_a_caller_who_goes_while_its_request_begins_leaves_the_queue(
    stream: FakeStream, model: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.come(1, rows=1 << 16)
    (work,) = stream.work
    submit = model.submit
    monkeypatch.setattr(model, "submit", lambda *given: (stream.go(), submit(*given))[1])
    work()

    assert len(model.left) == len(model.waiting) == 1


def test_what_comes_between_answers_waits_for_the_last_of_them(
    stream: FakeStream, model: Queued
) -> None:
    """Each answer makes room for one request: they should meet in a batch, too."""
    stream.come(1, 2, 3, 4)
    stream.become_idle()
    model.run_all()
    stream.come(5)
    assert stream.idle is None
    for _ in range(3):
        stream.take()
    assert not model.waiting
    stream.take()
    stream.become_idle()

    assert len(model.waiting) == 1


def test_answers_that_are_there_travel_together(stream: FakeStream, model: Queued) -> None:
    stream.come(1, 2, 3, 4)
    model.run_all()
    for _ in range(4):
        stream.take()

    # The first answer, of no id, is the window.
    assert stream.answers == [(0, False), (1, True), (2, True), (3, True), (4, False)]


def test_the_end_begins_what_has_gathered(stream: FakeStream, model: Queued) -> None:
    stream.come(1, 2)
    stream.finish()
    assert len(model.waiting) == 2
    model.run_all()
    stream.take()
    assert not stream.ended
    stream.take()

    assert stream.ended == [None]
    assert stream.reserved == 0


def test_what_has_gathered_does_not_begin_once_the_caller_is_gone(
    stream: FakeStream, model: Queued
) -> None:
    stream.come(1, 2)
    stream.go()
    stream.become_idle()
    stream.become_idle()

    assert not model.waiting


def test_bytes_that_are_no_request_drop_what_came_after_them(
    stream: FakeStream, model: Queued
) -> None:
    stream.come(1)
    stream.come_as(b"\xff")
    stream.come(3, 4)
    model.run_all()
    stream.take()

    (error,) = stream.ended
    assert error is not None
    assert error.code.name == "INVALID_ARGUMENT"
    assert [number for number, _ in stream.answers] == [0, 1]


@pytest.mark.parametrize("as_ready", [False, True])
def test_what_gathers_while_such_bytes_are_read_is_dropped_too(
    stream: FakeStream, model: Queued, as_ready: bool
) -> None:
    stream.come(1, as_ready=as_ready)
    stream.become_idle()
    stream.come_as(b"\xff" * 600_000)
    (work,) = stream.work
    stream.come(3)
    stream.come_as(b"\xff")
    work()
    stream.become_idle()
    stream.become_idle()
    assert len(model.waiting) == 1, "what came before is under way, and nothing else"
    model.run_all()
    stream.take()

    (error,) = stream.ended
    assert error is not None
    assert error.code.name == "INVALID_ARGUMENT"
    assert [number for number, _ in stream.answers] == [0, 1]


def test_past_the_budget_nothing_is_read_of_a_request_but_its_id(
    stream: FakeStream, model: Queued
) -> None:
    """Not even whether its tensors are some."""
    message = PredictStreamRequest.FromString(request(7)).request
    broken = message.SerializeToString() + wire.join(wire.bytes_field(2, [b"\xff"]))
    stream.room = 0
    stream.come_as(wire.join([wire.varint_field(1, 7), *wire.bytes_field(2, [broken])]))
    stream.become_idle()

    assert stream.answers[-1] == (7, False)
    assert not model.waiting
    stream.take()
    assert stream.reserved == 0


def test_a_gathering_counts_requests_and_bytes() -> None:
    gathering: Accumulator[str] = Accumulator(ReadAheadWindow(requests=4, nbytes=100))

    assert not gathering.add("a", 10)
    assert gathering.add("b", 10)
    assert gathering.take() == (["a", "b"], 20)
    assert not gathering
    assert gathering.add("c", 50)


def test_a_large_request_for_chunks_is_read_in_a_thread(manager: Manager, model: Queued) -> None:
    stream = FakeStream()
    predict_in_chunks(manager, Predict(tensor_content=True)).handle(stream)
    stream.come_as(predict_request(rows=1 << 16))
    assert not model.waiting
    (work,) = stream.work
    work()

    assert len(model.waiting) == 1


def test_a_caller_who_sends_no_request_for_chunks_is_told_and_not_counted(
    manager: Manager,
) -> None:
    ended: list[Observation] = []
    stream = FakeStream()
    predict_in_chunks(manager, Predict(tensor_content=True), Ended(ended)).handle(stream)
    stream.finish()

    (error,) = stream.ended
    assert error is not None
    assert (error.code.name, error.message) == (
        "INVALID_ARGUMENT",
        "expected one PredictRequest, got none",
    )
    assert not ended


def test_a_caller_who_goes_before_its_request_for_chunks_is_read_has_nothing_read(
    manager: Manager, model: Queued
) -> None:
    ended: list[Observation] = []
    stream = FakeStream()
    predict_in_chunks(manager, Predict(tensor_content=True), Ended(ended)).handle(stream)
    stream.come_as(predict_request(rows=1 << 16))
    (work,) = stream.work
    stream.go()
    work()

    assert not model.waiting
    assert [one.code.name for one in ended] == ["CANCELLED"]


def test_each_chunk_after_the_first_is_encoded_in_a_thread(manager: Manager, model: Queued) -> None:
    """Encoding it would hold up all other calls."""
    ended: list[Observation] = []
    stream = FakeStream()
    predict_in_chunks(manager, Predict(tensor_content=True), Ended(ended)).handle(stream)
    stream.come_as(predict_request(rows=1))
    ((_, done),) = model.waiting
    afterwards = done({"y": np.zeros((3, 700_000), np.float32)})
    assert len(stream.sent_bytes) == 1
    for number in range(2, 4):
        assert not ended
        assert not stream.ended
        stream.take()
        (work,) = stream.work
        stream.work.clear()
        assert len(stream.sent_bytes) == number - 1
        work()
        assert len(stream.sent_bytes) == number
    assert afterwards is None
    assert [one.code.name for one in ended] == ["OK"]
    stream.take()

    assert stream.ended == [None]
    assert not stream.work


def test_a_large_request_for_chunks_is_let_go_while_its_answer_is_sent(
    manager: Manager, model: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(malloc, "LARGE_BYTES", 1000)
    seen: list[Observation] = []
    stream = FakeStream()
    submit = model.submit

    def noting(*given: Any) -> FakePending:
        seen.append(given[-1])
        return submit(*given)

    monkeypatch.setattr(model, "submit", noting)
    predict_in_chunks(manager, Predict(tensor_content=True)).handle(stream)
    stream.come_as(predict_request(rows=1 << 10))

    assert [one.request for one in seen] == [None]


def test_after_large_requests_of_a_stream_the_heap_is_given_back_once(
    stream: FakeStream, model: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.come(1, 2, 3, 4)
    trimmed: list[int] = []
    monkeypatch.setattr(malloc, "LARGE_BYTES", 1)
    monkeypatch.setattr(malloc, "trim", lambda: trimmed.append(len(stream.answers)))
    stream.come(5, 6, 7, 8)
    trimmed.clear()
    model.run_all()

    assert trimmed == [2], "once, and after the answers are on their way"


@pytest.mark.parametrize("typed", [False, True])
def test_of_strings_no_more_is_encoded_than_has_room(
    typed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However unequal they are."""
    tried: list[int] = []

    def encode(outputs: Arrays, *given: Any, **options: Any) -> bytes:
        tried.append(len(outputs["y"]))
        return encode_response(outputs, *given, **options)

    monkeypatch.setattr("ladle.server.rpc.prediction.chunks.encode_response", encode)
    y = np.array([b"s"] * 3000 + [b"l" * 1_500_000] * 4 + [b"x" * 5_000_000] + [b""] * 5, object)
    outputs = {"y": y, "z": np.zeros((len(y), 2), np.float32)}

    made = list(chunks(outputs, ServableId("m", 1), "s", typed=typed))

    assert tried == [3002, 2, 1, 5]
    assert [one.is_last for one in made] == [False, False, False, True]
    parts = [PredictChunk.FromString(one.message).response.outputs["y"] for one in made]
    assert [value for part in parts for value in part.string_val] == y.tolist()


def predict_request(rows: int) -> bytes:
    message = PredictStreamRequest.FromString(request(1, rows))
    return message.request.SerializeToString()


class Ended(Unobserved):
    """An observer that keeps the requests that have ended."""

    def __init__(self, ended: list[Observation]) -> None:
        self._ended = ended

    def request_ended(self, request: Observation) -> None:
        self._ended.append(request)
