"""What the event loop waits for: a handle is never lost, and nobody waits for who has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock, FakeLoader

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import Cancelled
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.rest.calls import Inbox, Pools, Services
from ladle.server.rest.json.process import JsonProcesses
from ladle.server.rest.request import Request

ONE = {1: Path("/m/1")}
SPEC = ModelSpec(name="m")


@pytest.fixture
def services() -> Iterator[Services]:
    with ThreadPoolExecutor(1) as working, ThreadPoolExecutor(1) as waiting:
        yield Services({}, Pools(working, waiting, JsonProcesses(1)))


@pytest.fixture
def manager() -> Iterator[Manager]:
    """One that expects the model `m`; nobody can ask for it yet."""
    clock = FakeClock()
    made = Manager(FakeLoader(), clock=clock)
    made.expect("m")
    yield made
    made.stop(0)


def request(gone: asyncio.Future[None] | None = None) -> Request:
    return Request(deadline=1e9, gone=gone)


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), TIMEOUT_S)


def test_a_request_waits_for_the_first_version(services: Services, manager: Manager) -> None:
    async def drive() -> int:
        asked = asyncio.ensure_future(services.acquire(manager, SPEC, request()))
        await until(lambda: manager.waiting_requests)
        manager.aspire("m", ONE)
        with await asked as handle:
            return handle.id.version

    assert asyncio.run(drive()) == 1


def test_a_handle_that_comes_when_nobody_waits_any_more_is_released(
    services: Services, manager: Manager
) -> None:
    """What still runs at the end of a drain is cancelled, and the version has to be unloaded."""

    async def drive() -> None:
        asked = asyncio.ensure_future(services.acquire(manager, SPEC, request()))
        await until(lambda: manager.waiting_requests)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        manager.aspire("m", ONE)
        await until(lambda: not manager.waiting_requests and manager.is_available("m"))

    asyncio.run(drive())
    services.pools.waiting.shutdown()
    assert manager.stop(TIMEOUT_S)


def test_nobody_waits_for_a_model_on_behalf_of_who_has_gone(
    services: Services, manager: Manager
) -> None:
    async def drive() -> None:
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asked = asyncio.ensure_future(services.acquire(manager, SPEC, request(gone)))
        await until(lambda: manager.waiting_requests)
        gone.set_result(None)
        with pytest.raises(Cancelled, match="the caller went away"):
            await asked

    asyncio.run(drive())
    assert not manager.waiting_requests


class CountingLoop:
    """An event loop that counts how often it is woken."""

    def __init__(self) -> None:
        self.woken: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.woken.append(callback)

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.woken.append(callback)


def test_an_inbox_is_woken_once_for_many_and_keeps_their_order() -> None:
    """Each wake-up is a system call, and a batch has the answers of many."""
    loop = CountingLoop()
    inbox = Inbox(loop)  # type: ignore[arg-type]
    called: list[int] = []
    for number in range(100):
        inbox.leave(partial(called.append, number))
    inbox.leave(lambda: inbox.leave(partial(called.append, 100)))  # from within
    assert len(loop.woken) == 1
    while loop.woken:
        loop.woken.pop()()
    assert called == list(range(101))


def test_an_inbox_loses_nothing_however_threads_interleave() -> None:
    async def drive() -> int:
        inbox = Inbox(asyncio.get_running_loop())
        called: list[int] = []

        def leave_many() -> None:
            for number in range(2000):
                inbox.leave(partial(called.append, number))

        with ThreadPoolExecutor(4) as leaving:
            for _ in range(4):
                leaving.submit(leave_many)
            await until(lambda: len(called) == 8000)
        return len(called)

    assert asyncio.run(drive()) == 8000
