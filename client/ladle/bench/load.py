"""The load itself: requests at a given concurrency or rate, and what came of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ladle.bench.histogram import Histogram
from ladle.client import LadleError

MAX_IN_FLIGHT = 4096
"""The most requests in flight at a given rate; further ones wait, which their latency shows."""


@dataclass
class Measured:
    """What came of the requests of a load test."""

    latencies: Histogram = field(default_factory=Histogram)
    """Of the requests that were answered."""
    errors: Counter[str] = field(default_factory=Counter)
    """How many requests failed, by the name of the status."""
    first_errors: dict[str, str] = field(default_factory=dict)
    """The message of the first of each."""
    unsent: int = 0
    """At a given rate, how many requests were due and not made: this process was too slow."""
    rows: int = 0
    """The rows of the requests that were answered."""
    seconds: float = 0.0
    """From the start to the end of the last request."""

    @property
    def requests(self) -> int:
        """All requests, answered or failed."""
        return self.latencies.count + self.errors.total()


Call = Callable[[], Awaitable[int]]
"""Makes one request, and returns its rows."""


async def at_concurrency(
    call: Call, concurrency: int, duration_s: float, now: Callable[[], float] = time.perf_counter
) -> Measured:
    """Keep `concurrency` requests in flight for a time, each made when one before has ended."""
    measured = Measured()
    began = now()

    async def work() -> None:
        while (start := now()) < began + duration_s:
            await _one(call, start, measured, now)

    await asyncio.gather(*(work() for _ in range(concurrency)))
    measured.seconds = now() - began
    return measured


async def at_rate(
    call: Call,
    rate: float,
    duration_s: float,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Measured:
    """Make `rate` requests a second for a time, whatever the answers do.

    A latency counts from the moment when the request was due. So a server that stalls is charged
    for all requests that had to wait, and not only for those in flight.
    """
    measured = Measured()
    places = asyncio.Semaphore(MAX_IN_FLIGHT)
    tasks: set[asyncio.Task[None]] = set()
    began = now()

    async def work(due: float) -> None:
        try:
            await _one(call, due, measured, now)
        finally:
            places.release()

    planned = round(rate * duration_s)
    for index in range(planned):
        due = began + index / rate
        await sleep(max(due - now(), 0.0))  # also where it is late, so that answers are read
        await places.acquire()
        if now() >= began + duration_s:
            places.release()
            measured.unsent = planned - index
            break
        task = asyncio.ensure_future(work(due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    measured.seconds = now() - began
    return measured


async def _one(call: Call, start: float, measured: Measured, now: Callable[[], float]) -> None:
    try:
        rows = await call()
    except LadleError as error:
        name = error.code.name
        measured.errors[name] += 1
        measured.first_errors.setdefault(name, str(error))
    else:
        measured.latencies.add(now() - start)
        measured.rows += rows
