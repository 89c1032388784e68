"""Predictions in parts of their rows: from servers that send them so, and from others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from client.clients import CLIENTS
from client.fakes import FakeServing, Refused, Version, image_version, listening

from ladle.client import (
    AsyncClient,
    Cancelled,
    Client,
    InvalidAnswer,
    InvalidInput,
    MessageTooLarge,
    NotFound,
    Prediction,
    Unavailable,
)
from ladle.client.calls.flows import PredictCall
from ladle.client.messages.requests import Servable
from ladle.client.models import ModelMetadata, Signature, TensorSpec
from ladle.client.streaming.chunks import FIRST_ROWS, next_part, parts
from ladle.protos.ladle_pb import PredictChunk
from ladle.protos.serving_pb import PredictRequest

PIXELS = np.arange(200, dtype=np.uint8).repeat(4).reshape(200, 2, 2)


def by_blocking(address: str, inputs: Any, take: int = 0, **settings: Any) -> list[Prediction]:
    max_message_bytes = settings.pop("max_message_bytes", 1 << 20)
    with Client(address, max_message_bytes=max_message_bytes) as client:
        taken: list[Prediction] = []
        stream: Any = client.predict_chunks("m", inputs, **settings)
        for prediction in stream:
            taken.append(prediction)
            if len(taken) == take:
                stream.close()
        return taken


def by_awaiting(address: str, inputs: Any, take: int = 0, **settings: Any) -> list[Prediction]:
    max_message_bytes = settings.pop("max_message_bytes", 1 << 20)

    async def main() -> list[Prediction]:
        taken: list[Prediction] = []
        async with AsyncClient(address, max_message_bytes=max_message_bytes) as client:
            stream: Any = client.predict_chunks("m", inputs, **settings)
            async with aclosing(stream):
                async for prediction in stream:
                    taken.append(prediction)
                    if len(taken) == take:
                        break
        return taken

    return asyncio.run(main())


By = Callable[..., list[Prediction]]
both = pytest.mark.parametrize("by", [by_blocking, by_awaiting])


def serving(chunk_rows: int | None, kind: type[FakeServing] = FakeServing) -> FakeServing:
    server = kind({4: image_version(255, labels=("dark", "bright"))})
    server.chunk_rows = chunk_rows
    return server


def check(predictions: list[Prediction]) -> None:
    together = np.concatenate([prediction["scores"] for prediction in predictions])
    np.testing.assert_allclose(together[:, 0], np.arange(200) / 255, atol=1e-6)
    assert {(p.model, p.version, p.labels) for p in predictions} == {("m", 4, ("dark", "bright"))}


@both
def test_parts_come_as_the_server_sends_them(by: By) -> None:
    server = serving(70)
    with listening(server) as address:
        predictions = by(address, PIXELS)
    assert [len(prediction["scores"]) for prediction in predictions] == [70, 70, 60]
    check(predictions)
    assert len(server.predicted) == 1


@both
def test_another_server_is_asked_for_some_rows_at_a_time(by: By) -> None:
    server = serving(None)
    with listening(server) as address:
        predictions = by(address, PIXELS)
    check(predictions)
    assert [len(prediction["scores"]) for prediction in predictions] == [FIRST_ROWS, 136]
    assert [request.model_spec.version.value for request in server.predicted] == [0, 4]


@pytest.mark.parametrize("client_class", CLIENTS)
def test_of_several_servers_each_is_asked_as_it_can_be(client_class: Any) -> None:
    with_chunks, without = serving(70), serving(None)
    with (
        listening(without) as first,
        listening(with_chunks) as second,
        client_class([first, second]) as client,
    ):
        chunks = [len(collected(client)) for _ in range(6)]
    assert {*chunks} == {2, 3}
    assert chunks.count(3) >= 2, "one server without chunks doesn't end them for the other"


def collected(client: Any) -> list[Prediction]:
    if isinstance(client, Client):
        return [*client.predict_chunks("m", PIXELS)]

    async def main() -> list[Prediction]:
        return [p async for p in client.awaited.predict_chunks("m", PIXELS)]

    done: list[Prediction] = client.run(main())
    return done


@both
def test_parts_that_are_too_large_are_asked_for_in_halves(by: By) -> None:
    server = serving(None)
    run = server.versions[4].run
    server.versions[4].run = lambda inputs: {"scores": np.tile(run(inputs)["scores"], (1, 10))}
    with listening(server) as address:
        predictions = by(address, PIXELS, max_message_bytes=3_000)
    check(predictions)
    assert [len(prediction["scores"]) for prediction in predictions] == [32] * 6 + [8]


@both
def test_what_is_not_by_row_comes_in_one_part(by: By) -> None:
    version = Version()
    version.signatures["serving_default"].outputs["scores"].tensor_shape.dim[0].size = 3
    server = FakeServing({1: version})
    with listening(server) as address:
        (prediction,) = by(address, np.zeros((3, 2, 2), np.float32))
    assert prediction["scores"].shape == (3, 2)


@both
def test_errors_are_told_as_of_other_predictions(by: By) -> None:
    for chunk_rows in (50, None):
        with listening(serving(chunk_rows)) as address:
            with pytest.raises(InvalidInput, match=r"expected uint8 \[-1, 2, 2\]"):
                by(address, np.zeros((1, 9), np.uint8))
            with pytest.raises(NotFound):
                by(address, PIXELS, version=9)


def changed(change: Callable[[int, PredictChunk], PredictChunk | None]) -> type[FakeServing]:
    class Changed(FakeServing):
        def chunks(self, request: PredictRequest) -> Iterator[PredictChunk]:
            for number, chunk in enumerate(super().chunks(request)):
                made = change(number, chunk)
                if made is None:
                    return
                yield made

    return Changed


def _shift(number: int, chunk: PredictChunk) -> PredictChunk:
    chunk.first_row += number
    return chunk


def _grow(number: int, chunk: PredictChunk) -> PredictChunk:
    chunk.total_rows += number
    return chunk


def _shrink(number: int, chunk: PredictChunk) -> PredictChunk:
    chunk.total_rows = 100
    return chunk


def _stop(number: int, chunk: PredictChunk) -> PredictChunk | None:
    return chunk if number < 2 else None


def _empty(number: int, chunk: PredictChunk) -> PredictChunk | None:
    return None


def _refuse(number: int, chunk: PredictChunk) -> PredictChunk:
    if number == 2:
        raise Refused(grpc.StatusCode.UNAVAILABLE, "leaving")
    return chunk


@both
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_shift, InvalidAnswer, "expected rows from 70 of 200, got rows from 71 of 200"),
        (_grow, InvalidAnswer, "expected rows from 70 of 200, got rows from 70 of 201"),
        (_shrink, InvalidAnswer, r"expected each output to have as many rows, 1 to 30, got \[70\]"),
        (_stop, Unavailable, "the server ended after 140 of 200 rows"),
        (_refuse, Unavailable, "leaving"),
    ],
)
def test_an_answer_that_does_not_fit_together_is_told(
    by: By, change: Any, error: type[Exception], message: str
) -> None:
    server = serving(70, changed(change))
    with listening(server) as address, pytest.raises(error, match=message):
        by(address, PIXELS)
    assert len(server.predicted) == 1


@both
def test_an_answer_without_any_part_is_asked_for_again_and_told(by: By) -> None:
    server = serving(70, changed(_empty))
    with listening(server) as address, pytest.raises(Unavailable, match="before its first row"):
        by(address, PIXELS)
    assert len(server.predicted) > 1


@both
def test_who_leaves_ends_the_call(by: By) -> None:
    left = threading.Event()

    class Endless(FakeServing):
        def chunks(self, request: PredictRequest) -> Iterator[PredictChunk]:
            try:
                for chunk in super().chunks(request):
                    yield chunk
                while True:  # more than any buffer takes
                    yield chunk
            finally:
                left.set()

    with listening(serving(70, Endless)) as address:
        assert len(by(address, PIXELS, take=1)) == 1
        assert left.wait(30)


def test_closing_the_client_ends_the_parts() -> None:
    class Stuck(FakeServing):
        stopped = threading.Event()

        def chunks(self, request: PredictRequest) -> Iterator[PredictChunk]:
            yield next(super().chunks(request))
            self.stopped.wait(60)

        def stop(self) -> None:
            self.stopped.set()

    with listening(serving(70, Stuck)) as address:
        client = Client(address)
        stream = client.predict_chunks("m", PIXELS)
        next(stream)
        client.close()
        with pytest.raises(Cancelled):
            next(stream)

        async def main() -> None:
            client = AsyncClient(address)
            stream: Any = client.predict_chunks("m", PIXELS)
            await anext(stream)
            await client.close()
            with pytest.raises(Cancelled):
                await anext(stream)

        asyncio.run(main())


class TestParts:
    METADATA = ModelMetadata(
        "m",
        1,
        {
            "serving_default": Signature(
                inputs={"x": TensorSpec(1, (-1, 2))}, outputs={"y": TensorSpec(1, (-1,))}
            )
        },
    )

    def ask(self, rows: int, row_bytes: int, *, is_text: bool = False) -> list[int]:
        """Return how many rows are asked for each time."""
        wanted = PredictCall(target=Servable("m"), inputs={"x": np.zeros((rows, 2), np.float32)})
        asked = parts(wanted, self.METADATA)
        counts = []
        part = next_part(asked, None)
        while part is not None:
            assert isinstance(part.inputs, dict)
            counts.append(len(part.inputs["x"]))
            numbers = np.zeros((counts[-1], row_bytes), np.uint8)
            text = np.array([b"x" * row_bytes] * counts[-1], object)
            answer = {"y": text if is_text else numbers}
            part = next_part(asked, Prediction(answer, "m", 1, "serving_default"))
        return counts

    @pytest.mark.parametrize("is_text", [False, True])
    def test_parts_grow_to_the_size_of_a_message(self, is_text: bool) -> None:
        assert self.ask(5_000, 1_000, is_text=is_text) == [64, 4_000, 936]

    def test_large_rows_go_one_by_one(self) -> None:
        assert self.ask(66, 10_000_000) == [64, 1, 1]

    def test_a_row_that_is_too_large_is_told(self) -> None:
        wanted = PredictCall(target=Servable("m"), inputs={"x": np.zeros((3, 2), np.float32)})
        asked = parts(wanted, self.METADATA)
        too_large = MessageTooLarge("too large")
        first = next_part(asked, None)
        assert first == replace(wanted, inputs=first.inputs if first else {})
        assert next_part(asked, too_large) is not None  # one row
        with pytest.raises(MessageTooLarge):
            next_part(asked, too_large)
