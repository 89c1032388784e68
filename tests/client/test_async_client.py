"""The client that awaits: what only it does."""

from __future__ import annotations

import asyncio
import inspect
import threading

import numpy as np
import pytest
from client.fakes import FakeServing, image_version, listening

from ladle.client import AsyncClient, Cancelled, Client, Unavailable
from ladle.client.calls.effects import Failure, answer_last
from ladle.protos.serving_pb import PredictRequest, PredictResponse

PIXELS = np.full((3, 2, 2), 51, np.uint8)


class Stuck(FakeServing):
    """Answers no prediction before it stops."""

    def __init__(self) -> None:
        super().__init__({1: image_version(255)})
        self.asked, self.stopped = threading.Event(), threading.Event()

    def predict(self, request: PredictRequest) -> PredictResponse:
        self.asked.set()
        self.stopped.wait()
        return super().predict(request)

    def stop(self) -> None:
        self.stopped.set()


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


def test_an_answer_counts_where_the_other_attempt_fails_in_the_same_moment() -> None:
    """The event loop may have been busy with something else meanwhile."""
    failed, answered = (0, Failure(Unavailable("gone"))), (1, b"answer")
    assert answer_last([answered, failed]) == answer_last([failed, answered]) == [failed, answered]


def test_tasks_share_one_client() -> None:
    async def main(address: str) -> list[float]:
        async def mean(client: AsyncClient, value: int) -> float:
            image = np.full((1, 2, 2), value, np.uint8)
            return float((await client.predict("m", image))["scores"][0, 0])

        async with AsyncClient(address) as client:
            return await asyncio.gather(*(mean(client, value) for value in range(100)))

    with listening(FakeServing({1: image_version(255)})) as address:
        means = asyncio.run(main(address))
    np.testing.assert_allclose(means, np.arange(100) / 255, atol=1e-6)


def test_it_may_be_made_before_there_is_an_event_loop() -> None:
    with listening(FakeServing({1: image_version(255)})) as address:
        client = AsyncClient(address)

        async def main() -> int | None:
            async with client:
                return (await client.predict("m", PIXELS)).version

        assert asyncio.run(main()) == 1
    assert repr(client) == f'AsyncClient("{address}") (closed)'


@pytest.mark.parametrize("coalesce_ms", [0.0, 1.0])
def test_it_works_in_one_event_loop_after_another(coalesce_ms: float) -> None:
    """A program may call asyncio.run() for each of its jobs, with one client for all."""
    with listening(FakeServing({1: image_version(255)})) as address:
        client = AsyncClient(address, coalesce_ms=coalesce_ms)
        for _ in range(3):
            assert asyncio.run(client.predict("m", PIXELS)).version == 1

        async def use() -> list[int | None]:
            with_stream = [p.version async for p in client.stream("m", [PIXELS])]
            return with_stream + [p.version async for p in client.predict_chunks("m", PIXELS)]

        assert asyncio.run(use()) == [1, 1]
        asyncio.run(client.close())


def test_a_second_event_loop_beside_the_first_is_refused_in_ladles_words() -> None:
    with listening(FakeServing({1: image_version(255)})) as address:
        client = AsyncClient(address)

        async def main() -> None:
            await client.predict("m", PIXELS)
            with pytest.raises(RuntimeError, match="make one AsyncClient for each event loop"):
                await asyncio.to_thread(asyncio.run, client.predict("m", PIXELS))
            assert (await client.predict("m", PIXELS)).version == 1
            await client.close()

        asyncio.run(main())


def test_a_cancelled_task_ends_its_call() -> None:
    stuck = Stuck()

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            task = asyncio.ensure_future(client.predict("m", PIXELS))
            await happened(stuck.asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with listening(stuck) as address:
        asyncio.run(main(address))


def test_closing_ends_the_calls_under_way() -> None:
    stuck = Stuck()

    async def main(address: str) -> None:
        client = AsyncClient(address)
        task = asyncio.ensure_future(client.predict("m", PIXELS))
        await happened(stuck.asked)
        await client.close()
        with pytest.raises(Cancelled):
            await task
        await client.close()

    with listening(stuck) as address:
        asyncio.run(main(address))


def test_its_methods_are_those_of_the_client_that_blocks() -> None:
    for name, method in inspect.getmembers(Client, inspect.isfunction):
        if not name.startswith("_"):
            other = getattr(AsyncClient, name)
            assert parameters(other) == parameters(method), name
            assert other.__doc__


def parameters(method: object) -> list[tuple[str, object, object]]:
    assert callable(method)
    return [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
