"""Streams of predictions over real gRPC, from both clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest
from client.fakes import FakeServing, Refused, image_version, listening
from numpy.typing import NDArray

from ladle.client import (
    AsyncClient,
    Cancelled,
    Client,
    Hedge,
    InvalidInput,
    LadleError,
    Prediction,
    Retry,
)
from ladle.protos import tensors
from ladle.protos.serving_pb import PredictRequest, PredictResponse

Image = NDArray[np.uint8]


def image(value: int) -> Image:
    return np.full((1, 2, 2), value, np.uint8)


def value_of(prediction: Prediction) -> int:
    return round(float(prediction["scores"][0, 0]) * 255)


class Counting:
    """Yields images, and counts how many were read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __iter__(self) -> Iterator[Image]:
        for value in range(self.count):
            self.read += 1
            yield image(value % 256)


def run_blocking(
    address: str, inputs: Iterable[Any], take: int | None = None, **settings: Any
) -> list[Prediction]:
    retry = settings.pop("retry", None)
    with Client(address, retry=retry) as client:
        stream = client.stream("m", inputs, **settings)
        taken: list[Prediction] = []
        for prediction in stream:
            taken.append(prediction)
            if take is not None and len(taken) >= take:
                stream.close()  # type: ignore[attr-defined]  # it is a generator
        return taken


def run_awaiting(
    address: str, inputs: Iterable[Any], take: int | None = None, **settings: Any
) -> list[Prediction]:
    retry = settings.pop("retry", None)

    async def main() -> list[Prediction]:
        taken: list[Prediction] = []
        async with AsyncClient(address, retry=retry) as client:
            stream: Any = client.stream("m", inputs, **settings)
            async with aclosing(stream):
                async for prediction in stream:
                    taken.append(prediction)
                    if take is not None and len(taken) >= take:
                        break
        return taken

    return asyncio.run(main())


Run = Callable[..., list[Prediction]]
both = pytest.mark.parametrize("run", [run_blocking, run_awaiting])


@pytest.fixture(params=["unary", "streaming"], autouse=True)
def has_streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run everything against servers with streams and without."""
    made = FakeServing.__init__
    has_streams: bool = request.param == "streaming"

    def make(self: FakeServing, *args: Any, **settings: Any) -> None:
        made(self, *args, **settings)
        self.has_streams = has_streams

    monkeypatch.setattr(FakeServing, "__init__", make)
    return has_streams


@both
def test_each_input_is_answered_in_order(run: Run, has_streams: bool) -> None:
    """One stream carries them all, where the server has streams."""
    server = FakeServing({1: image_version(255)})
    with listening(server) as address:
        predictions = run(address, Counting(200))
    assert server.streams == has_streams
    assert [value_of(prediction) for prediction in predictions] == [*range(200)]
    assert [prediction.index for prediction in predictions] == [*range(200)]


@both
def test_nothing_in_is_nothing_out(run: Run) -> None:
    with listening(FakeServing({1: image_version(255)})) as address:
        assert run(address, []) == []


class Held(FakeServing):
    """Answers the image of value 0 only after all others that are expected."""

    def __init__(self, others: int) -> None:
        super().__init__({1: image_version(255)})
        self.left, self.all_others = others, threading.Event()

    def predict(self, request: PredictRequest) -> PredictResponse:
        (tensor,) = request.inputs.values()
        if not tensors.to_array(tensor).any():
            self.all_others.wait(30)
        response = super().predict(request)
        if tensors.to_array(tensor).any():
            self.left -= 1
            if not self.left:
                self.all_others.set()
        return response

    def stop(self) -> None:
        self.all_others.set()


@both
def test_results_come_as_they_are_ready(run: Run) -> None:
    """The first is answered last: only a stream without order gets past a window of two."""
    with listening(Held(others=9)) as address:
        predictions = run(address, Counting(10), window=2, ordered=False)
    values = [value_of(prediction) for prediction in predictions]
    assert values[:8] == [*range(1, 9)]
    assert {*values[8:]} == {9, 0}  # these two race to be the last
    assert [prediction.index for prediction in predictions] == values


@both
def test_no_input_is_read_beyond_the_window(run: Run) -> None:
    inputs = Counting(1_000)
    with listening(FakeServing({1: image_version(255)})) as address:
        assert len(run(address, inputs, take=1, window=4)) == 1
    assert inputs.read <= 5


@both
def test_who_stops_early_waits_for_nothing(run: Run) -> None:
    """The first is answered and the others never; leaving the stream cancels them."""

    class OnlyTheFirst(FakeServing):
        stopped = threading.Event()

        def predict(self, request: PredictRequest) -> PredictResponse:
            (tensor,) = request.inputs.values()
            if tensors.to_array(tensor).any():
                self.stopped.wait(60)
            return super().predict(request)

        def stop(self) -> None:
            self.stopped.set()

    with listening(OnlyTheFirst({1: image_version(255)})) as address:
        assert len(run(address, Counting(50), take=1, window=4)) == 1


@both
def test_a_bad_input_ends_the_stream_after_those_before_it(run: Run) -> None:
    inputs = [image(1), image(2), np.zeros((1, 9), np.uint8), image(4)]
    with (
        listening(FakeServing({1: image_version(255)})) as address,
        pytest.raises(InvalidInput, match=r"expected uint8 \[-1, 2, 2\], got uint8 \[1, 9\]"),
    ):
        run(address, inputs)


@both
def test_bad_inputs_are_left_out_where_they_are_told_elsewhere(run: Run) -> None:
    told: list[tuple[int, LadleError]] = []
    inputs = [image(1), "no image", image(3), np.zeros((1, 9), np.uint8), image(5)]
    with listening(FakeServing({1: image_version(255)})) as address:
        predictions = run(
            address, inputs, on_error=lambda index, error: told.append((index, error))
        )
    assert [(p.index, value_of(p)) for p in predictions] == [(0, 1), (2, 3), (4, 5)]
    assert [(index, type(error)) for index, error in told] == [(1, InvalidInput), (3, InvalidInput)]


@both
def test_an_error_of_the_source_comes_after_what_it_gave(run: Run) -> None:
    def broken() -> Iterator[Image]:
        yield image(1)
        yield image(2)
        raise OSError("the disk is gone")

    server = FakeServing({1: image_version(255)})
    with listening(server) as address, pytest.raises(OSError, match="the disk is gone"):
        run(address, broken())
    assert len(server.predicted) == 2


@both
def test_a_server_that_comes_back_loses_and_repeats_nothing(run: Run) -> None:
    """Every third call is refused, far more often than a single call would be tried again."""

    class Failing(FakeServing):
        calls = 0
        lock = threading.Lock()

        def predict(self, request: PredictRequest) -> PredictResponse:
            with self.lock:
                self.calls += 1
                is_refused = self.calls <= 20 or self.calls % 3 == 0
            if is_refused:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "restarting", pushback="1")
            return super().predict(request)

    with listening(Failing({1: image_version(255)})) as address:
        retry = Retry(max_attempts=2, initial_backoff_s=0.005)
        predictions = run(address, Counting(100), window=4, retry=retry)
    assert [value_of(prediction) for prediction in predictions] == [*range(100)]


@both
def test_mistakes_are_told_before_anything_is_read(run: Run) -> None:
    inputs = Counting(3)
    with pytest.raises(ValueError, match="window: expected 1 or more, got 0"):
        run("127.0.0.1:1", inputs, window=0)
    with pytest.raises(ValueError, match="expected a version or a label"):
        run("127.0.0.1:1", inputs, version=1, label="stable")
    assert inputs.read == 0


def test_an_async_iterable_is_read_as_it_comes() -> None:
    """Each input is made only after the result before it: no result waits for the next input."""

    async def main(address: str) -> list[int]:
        handed_over = asyncio.Semaphore(1)

        async def inputs() -> AsyncIterator[Image]:
            for value in range(20):
                await handed_over.acquire()
                yield image(value)

        values = []
        async with AsyncClient(address) as client:
            async for prediction in client.stream("m", inputs()):
                values.append(value_of(prediction))
                handed_over.release()
        return values

    with listening(FakeServing({1: image_version(255)})) as address:
        assert asyncio.run(main(address)) == [*range(20)]


def test_who_leaves_a_hedged_stream_waits_for_nothing() -> None:
    class OnlyTheFirst(FakeServing):
        stopped = threading.Event()

        def predict(self, request: PredictRequest) -> PredictResponse:
            (tensor,) = request.inputs.values()
            if tensors.to_array(tensor).any():
                self.stopped.wait(60)
            return super().predict(request)

        def stop(self) -> None:
            self.stopped.set()

    hedge = Hedge(after_s=0.01, max_share=1.0)
    server = OnlyTheFirst({1: image_version(255)})
    with listening(server) as address, Client(address, hedge=hedge, timeout=600) as client:
        stream: Any = client.stream("m", Counting(50), window=4)
        assert value_of(next(stream)) == 0
        stream.close()


def test_an_address_of_several_servers_gets_calls_and_no_stream(has_streams: bool) -> None:
    """All of a stream would go to one of them."""
    server = FakeServing({1: image_version(255)})
    with listening(server) as address:
        assert len(run_blocking(f"dns:///{address}", Counting(5))) == 5
        assert len(run_awaiting(f"ipv4:{address},{address}", Counting(5))) == 5
    assert (server.streams, len(server.predicted)) == (0, 10)


def test_no_thread_is_left_behind() -> None:
    with listening(FakeServing({1: image_version(255)})) as address:
        run_blocking(address, Counting(20), take=3)
        names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("ladle-stream")]


def test_closing_the_client_ends_its_streams() -> None:
    class Stuck(FakeServing):
        asked, stopped = threading.Event(), threading.Event()

        def predict(self, request: PredictRequest) -> PredictResponse:
            self.asked.set()
            self.stopped.wait(60)
            return super().predict(request)

        def stop(self) -> None:
            self.stopped.set()

    server = Stuck({1: image_version(255)})
    with listening(server) as address, ThreadPoolExecutor(1) as executor:
        client = Client(address)
        pending = executor.submit(list, client.stream("m", Counting(9), window=3))
        assert server.asked.wait(30)
        client.close()
        with pytest.raises(Cancelled):
            pending.result(30)


def test_a_stream_and_chunks_have_the_callers_metadata(has_streams: bool) -> None:
    server, seen = FakeServing({1: image_version(255)}), []
    server.has_streams, server.chunk_rows = has_streams, 2 if has_streams else None
    key = {"X-User-Id": "7"}
    pixels = np.zeros((3, 2, 2), np.uint8)

    async def ask(address: str) -> None:
        async with AsyncClient(address) as client:
            assert len([p async for p in client.stream("m", Counting(5), metadata=key)]) == 5
            assert [p async for p in client.predict_chunks("m", pixels, metadata=key)]

    with listening(server, on_call=lambda call: seen.append(call.get("x-user-id"))) as address:
        with Client(address) as client:
            assert len([*client.stream("m", Counting(5), metadata=key)]) == 5
            assert [*client.predict_chunks("m", pixels, metadata=key)]
            with pytest.raises(ValueError, match="metadata"):
                client.stream("m", Counting(5), metadata={"": ""})
        asyncio.run(ask(address))
    assert len(seen) >= (6 if has_streams else 14)
    assert set(seen) == {"7"}
