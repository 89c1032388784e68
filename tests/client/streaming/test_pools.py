"""Streams over PredictStream, from servers that break off, leave things out, or talk nonsense."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Handler, image_version, listening
from numpy.typing import NDArray

from ladle.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidAnswer,
    LadleError,
    MessageTooLarge,
    Prediction,
    Retry,
)
from ladle.client.calls.effects import Failure
from ladle.client.errors import Unavailable, from_status
from ladle.client.messages import requests
from ladle.client.messages.streams import PREDICT_STREAM_MESSAGES
from ladle.client.streaming import pending
from ladle.client.streaming.pending import PendingTable, outcome_of_end
from ladle.protos.ladle_pb import PredictStreamRequest, PredictStreamResponse, StreamStart
from ladle.protos.serving_pb import PredictRequest

Code = grpc.StatusCode
START = PredictStreamResponse(start=StreamStart(window_requests=64)).SerializeToString()
Script = Callable[[int, Iterator[PredictStreamRequest], grpc.ServicerContext], Iterator[bytes]]
"""Answers the stream of this number, counted from 1."""


class Scripted(Handler):
    """FakeServing with a PredictStream that does as a script says."""

    def __init__(self, server: FakeServing, script: Script) -> None:
        super().__init__(server, lambda metadata: None)
        self.server, self.script = server, script
        self.streams = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method == requests.PREDICT_STREAM:
            self.streams += 1
            return grpc.stream_stream_rpc_method_handler(self._play)
        return super().service(handler_call_details)

    def answer(self, asked: PredictStreamRequest) -> bytes:
        response = PredictStreamResponse(id=asked.id, response=self.server.predict(asked.request))
        return response.SerializeToString()

    def _play(self, sent: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        read = (PredictStreamRequest.FromString(message) for message in sent)
        return self.script(self.streams, read, context)


@contextmanager
def scripted(script: Callable[[Scripted], Script]) -> Iterator[tuple[str, Scripted]]:
    """Give the address of a server whose streams `script` makes, and the server."""
    served = FakeServing({1: image_version(255)})
    handler = Scripted(served, lambda *about: iter(()))
    handler.script = script(handler)
    with ThreadPoolExecutor(8) as executor:
        server = grpc.server(executor, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}", handler
        finally:
            server.stop(grace=None).wait()


def image(value: int, size: int = 2) -> NDArray[np.uint8]:
    return np.full((1, size, size), value, np.uint8)


def run_blocking(address: str, count: int, **settings: Any) -> list[Prediction]:
    with Client(address, retry=Retry(initial_backoff_s=0.001)) as client:
        return [*client.stream("m", map(image, range(count)), **settings)]


def run_awaiting(address: str, count: int, **settings: Any) -> list[Prediction]:
    async def main() -> list[Prediction]:
        async with AsyncClient(address, retry=Retry(initial_backoff_s=0.001)) as client:
            return [p async for p in client.stream("m", map(image, range(count)), **settings)]

    return asyncio.run(main())


Run = Callable[..., list[Prediction]]
both = pytest.mark.parametrize("run", [run_blocking, run_awaiting])


def check(predictions: list[Prediction], count: int) -> None:
    """Nothing is lost, and nothing comes twice."""
    values = [round(float(prediction["scores"][0, 0]) * 255) for prediction in predictions]
    assert values == [*range(count)]


def breaking_off(handler: Scripted, end: Callable[[grpc.ServicerContext], None]) -> Script:
    """Let the first streams end after three answers each, with requests unanswered."""

    def script(
        number: int, sent: Iterator[PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        yield START
        for answered, asked in enumerate(sent):
            if number <= 5 and answered == 3:
                end(context)
                return
            yield handler.answer(asked)

    return script


@both
@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED, Code.OK])
def test_a_stream_that_breaks_off_goes_on_in_another(run: Run, code: grpc.StatusCode) -> None:
    def end(context: grpc.ServicerContext) -> None:
        if code is not Code.OK:
            context.abort(code, "gone")

    with scripted(lambda handler: breaking_off(handler, end)) as (address, handler):
        check(run(address, 40, window=8), 40)
    assert handler.streams >= 6


@both
@pytest.mark.parametrize("code", [Code.INTERNAL, Code.RESOURCE_EXHAUSTED, Code.UNKNOWN])
def test_what_a_broken_stream_left_is_asked_call_by_call(run: Run, code: grpc.StatusCode) -> None:
    def end(context: grpc.ServicerContext) -> None:
        context.abort(code, "no more of this")

    with scripted(lambda handler: breaking_off(handler, end)) as (address, _):
        check(run(address, 40, window=8), 40)


@both
def test_a_request_too_large_for_the_server_fails_alone(run: Run) -> None:
    server = FakeServing({1: image_version(255)})
    server.has_streams = True
    server.versions[1].signatures["serving_uint8"].inputs["images"].tensor_shape.Clear()
    told: list[tuple[int, LadleError]] = []
    inputs = [image(1), image(2), image(0, 100), image(4), image(5)]
    version = image_version(255, size=-1)
    server.versions[1] = version
    with listening(server, max_receive_bytes=5_000) as address:
        predictions = run_given(run, address, inputs, lambda i, error: told.append((i, error)))
    assert [prediction.index for prediction in predictions] == [0, 1, 3, 4]
    assert [(index, type(error)) for index, error in told] == [(2, MessageTooLarge)]


def run_given(run: Run, address: str, inputs: list[Any], on_error: Any) -> list[Prediction]:
    if run is run_blocking:
        with Client(address) as client:
            return [*client.stream("m", inputs, on_error=on_error)]

    async def main() -> list[Prediction]:
        async with AsyncClient(address) as client:
            return [p async for p in client.stream("m", inputs, on_error=on_error)]

    return asyncio.run(main())


@both
def test_a_server_that_begins_no_stream_is_asked_call_by_call(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the call and is silent, or says something else; and that is remembered."""
    release = threading.Event()

    def silent(handler: Scripted) -> Script:
        def script(*about: Any) -> Iterator[bytes]:
            release.wait(30)
            yield START

        return script

    def talkative(handler: Scripted) -> Script:
        return lambda *about: iter([b"\xff\xff\xff"])

    monkeypatch.setattr(pending, "_START_PATIENCE_S", 0.2)
    for make in (silent, talkative):
        with scripted(make) as (address, handler):
            check(run(address, 10, window=4), 10)
            release.set()
            assert handler.streams == 1


@pytest.mark.parametrize("client_class", CLIENTS)
@pytest.mark.parametrize("code", [Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.INTERNAL])
def test_a_start_that_fails_once_is_not_the_end_of_streams(
    client_class: Any, code: grpc.StatusCode
) -> None:
    """As in the second in which a token is replaced; the next stream has one again."""

    def script_of(handler: Scripted) -> Script:
        def script(
            number: int, sent: Iterator[PredictStreamRequest], context: grpc.ServicerContext
        ) -> Iterator[bytes]:
            if number == 1:
                context.abort(code, "not now")
            yield START
            for asked in sent:
                yield handler.answer(asked)

        return script

    with scripted(script_of) as (address, handler), client_class(address) as client:
        for _ in range(2):
            check(streamed(client, 5), 5)
        assert handler.streams == 2
        assert len(handler.server.predicted) == 10


def streamed(client: Any, count: int) -> list[Prediction]:
    inputs = map(image, range(count))
    if isinstance(client, Client):
        return [*client.stream("m", inputs, window=1)]

    async def main() -> list[Prediction]:
        return [p async for p in client.awaited.stream("m", inputs, window=1)]

    done: list[Prediction] = client.run(main())
    return done


def test_a_server_without_streams_is_asked_for_one_but_once() -> None:
    calls: list[str] = []

    class Counting(Handler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            calls.append(handler_call_details.method)
            return super().service(handler_call_details)

    with ThreadPoolExecutor(8) as executor:
        served = FakeServing({1: image_version(255)})
        server = grpc.server(executor, handlers=[Counting(served, lambda _: None)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with Client(f"127.0.0.1:{port}") as client:
                for _ in range(3):
                    check([*client.stream("m", map(image, range(5)), window=1)], 5)
        finally:
            server.stop(grace=None).wait()
    assert calls.count(requests.PREDICT_STREAM) == 1
    assert calls.count(requests.PREDICT) == 15


NONSENSE: dict[str, tuple[Callable[[int, bytes], bytes], str]] = {
    "random bytes": (lambda i, ok: b"\xff\xfe\xfd", "3 bytes that are not the message expected"),
    "an id that was not asked": (
        lambda i, ok: PredictStreamResponse(id=i + 1000).SerializeToString(),
        "answered request 10",
    ),
    "neither": (
        lambda i, ok: PredictStreamResponse(id=i).SerializeToString(),
        "expected a response or an error, got neither",
    ),
    "a truncated tensor": (lambda i, ok: _truncated(ok), 'output "scores": '),
}


def _truncated(message: bytes) -> bytes:
    response = PredictStreamResponse.FromString(message)
    tensor = response.response.outputs["scores"]
    tensor.tensor_content = tensor.tensor_content[:-1] or b"\0"
    tensor.ClearField("float_val")
    return response.SerializeToString()


@both
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_told_in_one_line(run: Run, kind: str) -> None:
    make, message = NONSENSE[kind]

    def talk(handler: Scripted) -> Script:
        def script(number: int, sent: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield START
            for asked in sent:
                yield make(asked.id, handler.answer(asked))

        return script

    with (
        scripted(talk) as (address, _),
        pytest.raises(InvalidAnswer, match=message) as caught,
    ):
        run(address, 5, window=2)
    assert "\n" not in str(caught.value)


@both
def test_an_answer_that_comes_twice_is_noticed(run: Run) -> None:
    def talk(handler: Scripted) -> Script:
        def script(number: int, sent: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield START
            for asked in sent:
                yield handler.answer(asked)
                yield handler.answer(asked)

        return script

    with (
        scripted(talk) as (address, _),
        pytest.raises(InvalidAnswer, match="which was not sent or has its answer"),
    ):
        check(run(address, 50, window=4), 50)


@both
def test_an_input_without_an_answer_fails_alone(run: Run) -> None:
    """The others are answered, and later ones go over another stream."""
    told: list[tuple[int, LadleError]] = []

    def script_of(handler: Scripted) -> Script:
        def script(number: int, sent: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield START
            for asked in sent:
                answer = handler.answer(asked)
                if handler.server.predicted[-1].inputs["images"].tensor_content != b"\3" * 4:
                    yield answer

        return script

    with scripted(script_of) as (address, handler):
        predictions = run(
            address,
            12,
            window=4,
            timeout=2.0,
            on_error=lambda index, error: told.append((index, error)),
        )
    assert [prediction.index for prediction in predictions] == [0, 1, 2, *range(4, 12)]
    assert [(index, type(error)) for index, error in told] == [(3, DeadlineExceeded)]
    assert handler.streams == 2


@both
def test_who_leaves_ends_the_call(run: Run) -> None:
    ended = threading.Event()

    def script_of(handler: Scripted) -> Script:
        def script(number: int, sent: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            context.add_callback(ended.set)
            yield START
            yield handler.answer(next(sent))
            ended.wait(30)

        return script

    with scripted(script_of) as (address, _):
        if run is run_blocking:
            with Client(address) as client:
                stream: Any = client.stream("m", map(image, range(50)), window=4, ordered=False)
                next(stream)
                stream.close()
                assert ended.wait(30)
        else:

            async def main() -> None:
                async with AsyncClient(address) as client:
                    stream: Any = client.stream("m", map(image, range(50)), window=4, ordered=False)
                    async with aclosing(stream):
                        await anext(stream)
                    assert await asyncio.to_thread(ended.wait, 30)

            asyncio.run(main())
    assert not [t for t in threading.enumerate() if t.name.startswith("ladle-stream")]


def test_a_consumer_that_stops_reading_holds_no_more_than_its_window() -> None:
    taken: list[int] = []

    def script_of(handler: Scripted) -> Script:
        def script(number: int, sent: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            yield START
            for asked in sent:
                taken.append(asked.id)
                yield handler.answer(asked)

        return script

    with scripted(script_of) as (address, _), Client(address) as client:
        stream: Any = client.stream("m", map(image, range(10)), window=3)
        next(stream)
        assert len(taken) <= 4
        assert [p.index for p in stream] == [*range(1, 10)]
    assert sorted(taken) == [*range(1, 11)]


class TestPendingTable:
    def table(self) -> PendingTable[str]:
        table: PendingTable[str] = PendingTable(PREDICT_STREAM_MESSAGES, "it")
        assert table.read(START) is None
        return table

    def test_an_answer_goes_to_who_asked(self) -> None:
        table = self.table()
        one, two = table.add("one"), table.add("two")
        response = PredictStreamResponse(id=two)
        response.response.SetInParent()
        assert table.read(response.SerializeToString()) == ("two", b"")
        assert not table.is_empty()
        response = PredictStreamResponse(id=one)
        response.error.error_code, response.error.error_message = 14, "full"
        told = table.read(response.SerializeToString())
        assert told is not None
        who, outcome = told
        assert who == "one"
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, Unavailable)
        assert str(outcome.error) == "it: UNAVAILABLE: full"
        assert table.is_empty()

    def test_an_answer_that_comes_too_late_is_nobodys(self) -> None:
        table = self.table()
        late = table.add("late")
        table.forget(late)
        answer = PredictStreamResponse(id=late).SerializeToString()
        assert table.read(answer) is None
        with pytest.raises(InvalidAnswer, match="which was not sent or has its answer"):
            table.read(answer)

    def test_the_end_tells_who_waits(self) -> None:
        table = self.table()
        table.add("one")
        table.add("two")
        assert table.end() == ["one", "two"]
        assert table.is_empty()

    def test_an_answer_before_the_start_is_none(self) -> None:
        table: PendingTable[str] = PendingTable(PREDICT_STREAM_MESSAGES, "it")
        with pytest.raises(InvalidAnswer, match="it: expected the start of a stream"):
            table.read(PredictStreamResponse(id=1).SerializeToString())

    def test_requests_are_what_protobuf_reads(self) -> None:
        request = PredictRequest()
        request.model_spec.name = "m"
        message = PredictStreamRequest.FromString(
            PREDICT_STREAM_MESSAGES.encode(300, request.SerializeToString())
        )
        assert (message.id, message.request, message.answer_as_ready) == (300, request, True)


@pytest.mark.parametrize(
    ("code", "has_started", "expected"),
    [
        (None, True, "UNAVAILABLE"),
        (Code.UNAVAILABLE, True, "UNAVAILABLE"),
        (Code.UNAVAILABLE, False, "UNAVAILABLE"),
        (Code.CANCELLED, True, "CANCELLED"),
        (Code.UNIMPLEMENTED, False, None),
        (Code.RESOURCE_EXHAUSTED, True, None),
        (Code.INTERNAL, True, None),
    ],
)
def test_the_end_decides_what_becomes_of_what_is_left(
    code: grpc.StatusCode | None, has_started: bool, expected: str | None
) -> None:
    failure = None if code is None else Failure(from_status(code, "", "it"))
    outcome = outcome_of_end(failure, has_started, "it")
    assert (outcome and outcome.error.code.name) == expected
