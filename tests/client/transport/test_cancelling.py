"""Giving up at every stage of a call: nothing hangs, the server hears of it, and the rest goes on.

The client that awaits gives up when its task is cancelled, the one that blocks when it is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest
from client.fakes import FakeServing, Refused, image_version, listening

from ladle.client import AsyncClient, Cancelled, Client, FleetError, LadleError
from ladle.client.messages import requests
from ladle.protos.serving_pb import PredictRequest

PIXELS = np.full((3, 2, 2), 51, np.uint8)
TIMEOUT_S = 30.0
TIMEOUT_S = 300.0
"""Of the calls: whoever waits for that instead of giving up has hung."""


class Holding(FakeServing):
    """Answers everything but one method, whose calls it holds until it stops."""

    def __init__(self, held: str | None, *, refuses: bool = False) -> None:
        super().__init__({1: image_version(255)})
        self.chunk_rows = 1
        self.held, self.refuses = held, refuses
        self.reached, self.stopped = threading.Event(), threading.Event()

    def answer(self, method: str, body: bytes) -> bytes:
        if method == self.held:
            self._hold()
        return super().answer(method, body)

    def chunks(self, request: PredictRequest) -> Any:
        for number, chunk in enumerate(super().chunks(request)):
            if number and self.held == requests.PREDICT_IN_CHUNKS:
                self._hold()
            yield chunk

    def predict(self, request: PredictRequest) -> Any:
        if self.has_streams and self.held == requests.PREDICT_STREAM:
            self._hold()
        if self.refuses:
            self.reached.set()
            raise Refused(grpc.StatusCode.UNAVAILABLE, "busy", pushback="200000")
        return super().predict(request)

    def stop(self) -> None:
        self.stopped.set()

    def _hold(self) -> None:
        self.reached.set()
        self.stopped.wait(2 * TIMEOUT_S)


def streaming(method: str | None) -> Holding:
    server = Holding(method)
    server.has_streams = True
    return server


STAGES: dict[str, Callable[[], Holding]] = {
    "the metadata": lambda: Holding(requests.GET_MODEL_METADATA),
    "the prediction": lambda: Holding(requests.PREDICT),
    "the wait before a retry": lambda: Holding(None, refuses=True),
    "a stream's calls": lambda: Holding(requests.PREDICT),
    "a stream's metadata": lambda: streaming(requests.GET_MODEL_METADATA),
    "a stream": lambda: streaming(requests.PREDICT_STREAM),
    "a stream's wait before a retry": lambda: Holding(None, refuses=True),
    "the other chunks": lambda: Holding(requests.PREDICT_IN_CHUNKS),
    "coalescing": lambda: Holding(requests.PREDICT),
    "every server": lambda: Holding(requests.CHECK_HEALTH),
    "the status": lambda: Holding(requests.GET_MODEL_STATUS),
}


def ask(client: Client, stage: str) -> object:
    if stage.startswith("a stream"):
        return [*client.stream("m", [PIXELS] * 9, window=3)]
    if stage == "the other chunks":
        return [*client.predict_chunks("m", PIXELS)]
    if stage == "every server":
        return client.health_everywhere()
    if stage == "the status":
        client.wait_until_ready("m")
        return None
    return client.predict("m", PIXELS)


async def ask_and_wait(client: AsyncClient, stage: str) -> object:
    if stage.startswith("a stream"):
        stream: Any = client.stream("m", [PIXELS] * 9, window=3)
        async with aclosing(stream):
            return [prediction async for prediction in stream]
    if stage == "the other chunks":
        chunks: Any = client.predict_chunks("m", PIXELS)
        async with aclosing(chunks):
            return [prediction async for prediction in chunks]
    if stage == "every server":
        return await client.health_everywhere()
    if stage == "the status":
        await client.wait_until_ready("m")
        return None
    return await client.predict("m", PIXELS)


@pytest.mark.parametrize("stage", STAGES)
def test_a_task_is_cancelled(stage: str) -> None:
    server = STAGES[stage]()

    async def main(address: str) -> None:
        async with AsyncClient(
            address, timeout=TIMEOUT_S, coalesce_ms=1 if stage == "coalescing" else 0
        ) as client:
            task = asyncio.ensure_future(ask_and_wait(client, stage))
            assert await asyncio.to_thread(server.reached.wait, TIMEOUT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, TIMEOUT_S)
            # The client is as good as before.
            server.held, server.refuses = None, False
            server.stopped.set()
            assert (await client.predict("m", PIXELS)).version == 1

    with listening(server) as address:
        asyncio.run(main(address))


@pytest.mark.parametrize("stage", STAGES)
def test_the_client_is_closed(stage: str) -> None:
    server = STAGES[stage]()
    with listening(server) as address, ThreadPoolExecutor(1) as executor:
        client = Client(address, timeout=TIMEOUT_S, coalesce_ms=1 if stage == "coalescing" else 0)
        pending = executor.submit(ask, client, stage)
        assert server.reached.wait(TIMEOUT_S)
        client.close()
        with pytest.raises((Cancelled, FleetError)) as caught:
            pending.result(TIMEOUT_S)
    error: LadleError = caught.value
    if isinstance(error, FleetError):
        error = error.errors[address]
    assert isinstance(error, Cancelled)
    assert "\n" not in str(error)
