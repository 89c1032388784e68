"""The client that awaits: what only it does."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import numpy as np
import pytest
from client.fakes import FakeServing, image_version, listening

from ladle.client import AsyncClient, Cancelled, Client, Hedge, Unavailable
from ladle.client.calls.effects import Failure, Second, Send
from ladle.client.messages import requests
from ladle.client.messages.requests import EncodedRequest
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

    class Racing(AsyncClient):
        async def _send(self, send: Send, metadata: Any) -> bytes | Failure:
            await both.wait()
            return b"answer" if send.address else Failure(Unavailable("gone"))

    def let_go() -> bool:
        asyncio.get_running_loop().call_soon(both.set)
        return True

    async def main() -> None:
        async with Racing(["a", "b"], hedge=Hedge(after_s=0.001, max_share=1.0)) as client:
            for _ in range(20):  # sets have no order
                both.clear()
                second = Second(1, 0.001, "Predict at b", let_go)
                send = Send(EncodedRequest(requests.PREDICT, b""), 0, 30.0, "Predict at a", second)
                raced = await client._race(send, second, ())
                assert raced.ended[-1] == (1, b"answer")
                assert [address for address, _ in raced.ended] == [0, 1]

    both = asyncio.Event()
    asyncio.run(main())


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
