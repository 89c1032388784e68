"""`Client.stream`: threads behind a window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from queue import SimpleQueue
from threading import Event, Lock
from typing import Protocol, TypeVar

import grpc

from ladle.client.errors import Unavailable
from ladle.client.prediction import Prediction
from ladle.client.streaming.pool import StreamCall, StreamPool
from ladle.client.streaming.window import NextAction, OnError, StreamWindow, result_or_raise
from ladle.client.transport.forking import GATE

T = TypeVar("T")


class Cancellable(Protocol):
    """A call that can be cancelled."""

    def cancel(self) -> object:
        """Cancel the call; no effect if it has ended."""


class Scope:
    """The calls of one stream, which are cancelled together. Thread-safe."""

    def __init__(self, pool: StreamPool | None = None) -> None:
        self.pool = pool
        """The streaming calls, for servers that have such a method."""
        self.cancelled = Event()
        self.chunks: StreamCall | None = None
        """The latest PredictInChunks call."""
        self._calls: set[Cancellable] = set()
        self._lock = Lock()

    def first_chunk(self, call: StreamCall) -> bytes:
        """Return the first message of an answer in chunks, and keep the call for the rest.

        Raises:
            grpc.RpcError: It failed.
            Unavailable: It ended without any.
        """
        if self.chunks is not None:
            self.chunks.cancel()  # replaced by a call with inputs prepared in another way
        self.chunks = call
        self.add(call)
        for message in call:
            return message
        raise Unavailable("the server ended the answer before its first row")

    def wait_for(self, call: grpc.Future[bytes]) -> bytes:
        """Return a call's answer, or raise as the call does.

        Raises:
            grpc.RpcError: It failed.
            grpc.FutureCancelledError: The scope was cancelled.
        """
        self.add(call)
        try:
            return call.result()
        finally:
            self.discard(call)

    def add(self, call: Cancellable) -> None:
        """Add a call, so that `cancel` cancels it."""
        with self._lock:
            self._calls.add(call)
        if (
            self.cancelled.is_set()
        ):  # checked after the call was added, so that `cancel` can't miss it
            call.cancel()

    def discard(self, call: Cancellable) -> None:
        """Remove a call that has ended."""
        with self._lock:
            self._calls.discard(call)

    def cancel(self) -> None:
        """Cancel all calls, and every call added later."""
        self.cancelled.set()
        with self._lock:
            calls = [*self._calls]
        for call in calls:
            call.cancel()
        if self.pool is not None:
            self.pool.cancel()


def stream(
    predict: Callable[[T, Scope], Prediction],
    inputs: Iterable[T],
    *,
    scope: Scope,
    window: StreamWindow[Prediction],
    max_workers: int,
    on_error: OnError | None,
) -> Iterator[Prediction]:
    """Yield what `predict` makes of each input, run in `max_workers` threads.

    Inputs are read in the consumer's thread. When it stops early, what is under way in `scope` is
    cancelled.
    """
    source = iter(inputs)
    ended: SimpleQueue[tuple[int, Prediction | Exception]] = SimpleQueue()

    def work(index: int, item: T) -> None:
        try:
            ended.put((index, replace(predict(item, scope), index=index)))
        except Exception as error:
            ended.put((index, error))

    executor = ThreadPoolExecutor(max_workers, thread_name_prefix="ladle-stream")
    generation = GATE.generation
    try:
        while (action := window.next()) is not NextAction.END:
            GATE.check(generation, "stream")
            if action is NextAction.HAND_OVER:
                index, result = window.hand_over()
                prediction = result_or_raise(index, result, on_error)
                if prediction is not None:
                    yield prediction
            elif action is NextAction.READ:
                try:
                    item = next(source)
                except StopIteration:
                    window.end()
                except Exception as error:
                    window.end(error)
                else:
                    # The call belongs to the trace and the other context variables of the consumer.
                    executor.submit(copy_context().run, work, window.read(), item)
            else:
                window.finish(*ended.get())
            while not ended.empty():
                window.finish(*ended.get())
    finally:
        if generation == GATE.generation:  # a forked child has neither the threads nor the calls
            scope.cancel()
            executor.shutdown(wait=True, cancel_futures=True)
            if scope.pool is not None:
                scope.pool.join()
