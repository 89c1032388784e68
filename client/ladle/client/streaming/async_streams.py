"""`AsyncClient.stream`: tasks behind a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import grpc

from ladle.client.errors import Unavailable
from ladle.client.prediction import Prediction
from ladle.client.streaming.async_pool import AsyncStreamPool
from ladle.client.streaming.window import NextAction, OnError, StreamWindow, result_or_raise

T = TypeVar("T")

ChunkCall: TypeAlias = "grpc.aio.UnaryStreamCall[bytes, bytes]"

_END = object()


class Scope:
    """The calls that a stream, or an answer in chunks, keeps open."""

    def __init__(self, pool: AsyncStreamPool | None = None) -> None:
        self.pool = pool
        """The streaming calls, for servers that have such a method."""
        self.chunks: ChunkCall | None = None
        """The latest PredictInChunks call."""

    async def first_chunk(self, call: ChunkCall) -> bytes:
        """Return the first message of an answer in chunks, and keep the call for the rest.

        Raises:
            grpc.aio.AioRpcError: It failed.
            Unavailable: It ended without any.
        """
        if self.chunks is not None:
            self.chunks.cancel()  # replaced by a call with inputs prepared in another way
        self.chunks = call
        async for message in call:
            return message
        raise Unavailable("the server ended the answer before its first row")

    async def close(self) -> None:
        """Cancel the calls."""
        if self.pool is not None:
            await self.pool.close()
        if self.chunks is not None:
            self.chunks.cancel()


async def stream(
    predict: Callable[[T], Awaitable[Prediction]],
    inputs: Iterable[T] | AsyncIterable[T],
    *,
    scope: Scope,
    window: StreamWindow[Prediction],
    on_error: OnError | None,
) -> AsyncIterator[Prediction]:
    """Yield what `predict` makes of each input, run in tasks.

    When the consumer stops early, tasks under way and calls in `scope` are cancelled.
    """
    read = _reader(inputs)
    under_way: set[asyncio.Task[tuple[int, Prediction | Exception]]] = set()
    reading: asyncio.Task[Any] | None = None

    async def work(index: int, item: T) -> tuple[int, Prediction | Exception]:
        try:
            return index, replace(await predict(item), index=index)
        except Exception as error:
            return index, error

    try:
        while (action := window.next()) is not NextAction.END:
            if action is NextAction.HAND_OVER:
                index, result = window.hand_over()
                prediction = result_or_raise(index, result, on_error)
                if prediction is not None:
                    yield prediction
                continue
            if action is NextAction.READ and reading is None:
                reading = asyncio.create_task(read())
            waited_for: set[asyncio.Task[Any]] = {*under_way, *([reading] if reading else [])}
            done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading in done:
                item = reading.result()
                reading = None
                if item is _END:
                    window.end()
                elif isinstance(item, _Failed):
                    window.end(item.error)
                else:
                    under_way.add(asyncio.create_task(work(window.read(), item)))
            for task in done & under_way:
                window.finish(*task.result())
                under_way.discard(task)
    finally:
        tasks: list[asyncio.Task[Any]] = [*under_way, *([reading] if reading else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await scope.close()


class _Failed:
    """The error that the iterable of the inputs raised."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _reader(inputs: Iterable[T] | AsyncIterable[T]) -> Callable[[], Any]:
    """Return a coroutine function that returns the next input, `_END` or `_Failed`."""
    if isinstance(inputs, AsyncIterable):
        awaited = aiter(inputs)

        async def read() -> Any:
            try:
                return await anext(awaited, _END)
            except Exception as error:
                return _Failed(error)

    else:
        source = iter(inputs)

        async def read() -> Any:
            try:
                return next(source, _END)
            except Exception as error:
                return _Failed(error)

    return read
