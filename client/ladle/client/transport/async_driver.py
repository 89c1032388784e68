"""The I/O driver of the asyncio client: performs the effects of retry loops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import grpc

from ladle.client.calls import flows
from ladle.client.calls.effects import (
    Failure,
    Flow,
    Outcome,
    Pause,
    Raced,
    Second,
    Send,
    answer_last,
    failure_of,
)
from ladle.client.calls.fleet import results_or_raise
from ladle.client.calls.retry_loop import RetryLoop
from ladle.client.errors import Cancelled, LadleError, MessageTooLarge, Unimplemented
from ladle.client.messages import requests
from ladle.client.prediction import Prediction
from ladle.client.transport.base import BaseClient
from ladle.client.transport.connection import ChannelOptions
from ladle.client.transport.forking import GATE

if TYPE_CHECKING:
    from ladle.client.coalescing.coalescers import AsyncCoalescer
    from ladle.client.streaming.async_pool import AsyncStreamPool, StreamCall
    from ladle.client.streaming.async_streams import Scope

T = TypeVar("T")
AnyCall = TypeVar("AnyCall", bound=grpc.aio.Call)


class AsyncIODriver(BaseClient):
    """Owns the channels of an asyncio client, and makes its calls."""

    async def _predict(self, call: flows.PredictCall, timeout: float | None) -> Prediction:
        return await self._run(flows.predict(call, self._known), timeout)

    def _set_up(self) -> None:
        super()._set_up()
        self._coalescer: AsyncCoalescer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: list[list[grpc.aio.Channel]] = []

    def _check_process(self) -> None:
        """Bind the client to the running event loop, since its channels belong to one.

        Raises:
            RuntimeError: Another event loop uses the client and still runs; or gRPC's asyncio does
                not work in this process.
        """
        super()._check_process()
        if GATE.asyncio_problem:
            raise RuntimeError(f"{self}: {GATE.asyncio_problem}")

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            if self._loop.is_running():
                raise RuntimeError(
                    f"{self}: another event loop uses this AsyncClient and still runs; make one "
                    "AsyncClient for each event loop"
                )
            self._forget_channels()
        self._loop = loop
        if self._gather_s:
            from ladle.client.coalescing.coalescers import AsyncCoalescer

            self._coalescer = AsyncCoalescer(self._predict, self._gather_s)
        credentials = self._channel_credentials()
        self._channels = [
            [
                self._open(address, self._own_options(index), credentials)
                for _ in range(self._connections)
            ]
            for index, address in enumerate(self._addresses)
        ]
        GATE.open_asyncio()

    def __del__(self) -> None:
        """Count a client that is dropped without `close` as closed, since its channels close."""
        if getattr(self, "_channels", None) and self._generation == GATE.generation:
            self._forget_channels()

    def _forget_channels(self) -> None:
        if self._channels:
            self._channels = []
            GATE.close_asyncio()

    def _open(
        self, address: str, options: ChannelOptions, credentials: grpc.ChannelCredentials | None
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(address, options, self._compression)
        return grpc.aio.secure_channel(address, credentials, options, self._compression)

    async def _run(self, flow: Flow[T], timeout: float | None, *, once: bool = False) -> T:
        return await self._finish(self._retry_loop(flow, timeout, once=once))

    async def _everywhere(
        self, what: str, flow: Callable[[], Flow[T]], timeout: float | None
    ) -> dict[str, T]:
        """Run a flow at every address in parallel, and return the results by address."""

        async def ask(index: int) -> T | LadleError:
            try:
                return await self._finish(self._retry_loop(flow(), timeout, only=index))
            except LadleError as error:
                return error

        addresses = self._fleet.addresses
        outcomes = await asyncio.gather(*(ask(index) for index in range(len(addresses))))
        return results_or_raise(what, dict(zip(addresses, outcomes, strict=True)))

    async def _finish(self, loop: RetryLoop[T], scope: Scope | None = None) -> T:
        self._bind()
        try:
            effect = next(loop)
            while True:
                effect = loop.send(await self._perform(effect, scope))
        except StopIteration as finished:
            result: T = finished.value
            return result

    async def _perform(self, effect: Send | Pause, scope: Scope | None) -> Outcome:
        """Perform an effect of a retry loop; `scope` keeps the calls that outlive it."""
        if isinstance(effect, Pause):
            await asyncio.sleep(effect.seconds)
            return None
        if self._is_closed:
            raise Cancelled(f"{effect.what}: the client was closed")
        outcome = await self._attempt(effect, scope)
        ended = outcome.ended[-1][1] if isinstance(outcome, Raced) else outcome
        if isinstance(ended, Failure) and ended.error.code is grpc.StatusCode.CANCELLED:
            self._raise_if_closed(ended.error)  # cancelled by this client, so not retried
        return outcome

    def _raise_if_closed(self, error: LadleError) -> None:
        if self._is_closed:
            raise error

    async def _attempt(self, send: Send, scope: Scope | None) -> Outcome:
        try:
            if scope is not None and scope.pool is not None and send.may_stream:
                began = time.monotonic()
                outcome = await scope.pool.ask(send)
                if outcome is not None:
                    return outcome
                send = send._replace(timeout_s=send.timeout_s - (time.monotonic() - began))
            metadata = self._metadata(send.request.metadata)
        except LadleError as error:
            return Failure(error)
        if send.request.method == requests.PREDICT_IN_CHUNKS:
            assert scope is not None  # the scope keeps the call for the other chunks
            return await self._first_chunk(send, metadata, scope)
        if send.second is not None:
            return await self._race(send, send.second, metadata)
        return await self._send(send, metadata)

    async def _send(self, send: Send, metadata: tuple[tuple[str, str], ...]) -> bytes | Failure:
        call = self._method(send.address, send.request.method)(
            send.request.body, timeout=send.timeout_s, metadata=grpc.aio.Metadata(*metadata)
        )
        try:
            return await _lasting(call)
        except grpc.aio.AioRpcError as error:
            return failure_of(error, send.what)
        except asyncio.CancelledError:
            self._raise_if_cut(call, send.what)
            raise

    def _raise_if_cut(self, call: grpc.aio.Call, what: str) -> None:
        """Raise Cancelled if a closed channel cancelled the call, and not the caller's task."""
        if self._is_closed and call.cancelled() and not _is_being_cancelled():
            raise Cancelled(f"{what}: the client was closed") from None

    async def _first_chunk(
        self, send: Send, metadata: tuple[tuple[str, str], ...], scope: Scope
    ) -> Outcome:
        if send.address in self._chunkless:
            return Failure(Unimplemented(f"{send.what}: it has no answers in chunks"))
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        method = self._channel(send.address).unary_stream(requests.PREDICT_IN_CHUNKS)
        call = method(
            send.request.body, timeout=send.timeout_s, metadata=grpc.aio.Metadata(*metadata)
        )
        try:
            return await scope.first_chunk(_lasting(call))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._chunkless.add(send.address)
            return failure_of(error, send.what)
        except LadleError as error:
            return Failure(error)
        except asyncio.CancelledError:
            self._raise_if_cut(call, send.what)
            raise

    async def _in_chunks(
        self, call: flows.PredictCall, timeout_s: float
    ) -> AsyncIterator[Prediction]:
        """Yield a prediction's rows, from PredictInChunks or from several Predict calls."""
        from ladle.client.streaming.async_streams import Scope
        from ladle.client.streaming.chunks import ChunkReader, next_part, parts

        deadline = self._now() + timeout_s
        if len(self._chunkless) < len(self._fleet.addresses):
            scope, chunks = Scope(), ChunkReader(call.target)
            flow = flows.predict(replace(call, in_chunks=True), self._known, chunks.start)
            try:
                prediction = await self._finish(self._retry_loop(flow, timeout_s), scope)
                yield prediction
                assert scope.chunks is not None
                async for message in scope.chunks:
                    yield replace(prediction, outputs=chunks.read(message).outputs)
                chunks.end()
                return
            except Unimplemented:  # no PredictInChunks: several Predict calls instead
                pass
            except grpc.aio.AioRpcError as error:
                raise failure_of(error, chunks.what).error from error
            except asyncio.CancelledError:
                if scope.chunks is not None:
                    self._raise_if_cut(scope.chunks, chunks.what)
                raise
            finally:
                await scope.close()
        metadata = await self._run(flows.learn(call.target, self._known, self._protocol), timeout_s)
        remaining = parts(call, metadata)
        outcome: Prediction | MessageTooLarge | None = None
        while (part := next_part(remaining, outcome)) is not None:
            try:
                outcome = await self._predict(part, self._left_s(deadline, call.target))
            except MessageTooLarge as error:
                outcome = error
            else:
                yield outcome

    async def _race(
        self, send: Send, second: Second, metadata: tuple[tuple[str, str], ...]
    ) -> Raced:
        """Make a call, and a second one if the first takes long; the first answer counts."""
        after_s = second.after_s
        first = asyncio.ensure_future(self._send(send, metadata))
        running = {first: send.address}
        ended: list[tuple[int, bytes | Failure]] = []
        try:
            await asyncio.wait(running, timeout=after_s)
            if not first.done() and send.timeout_s > after_s and second.allow():
                beside = send._replace(
                    address=second.address, what=second.what, timeout_s=send.timeout_s - after_s
                )
                running[asyncio.ensure_future(self._send(beside, metadata))] = second.address
            while running:
                done, _ = await asyncio.wait(running, return_when="FIRST_COMPLETED")
                ended += answer_last([(running.pop(task), task.result()) for task in done])
                if isinstance(ended[-1][1], bytes):
                    break
            return Raced(tuple(ended))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _stream_pool(self, callers: tuple[tuple[str, str], ...]) -> AsyncStreamPool:
        """Return the calls that carry one stream."""
        from ladle.client.streaming.async_pool import AsyncStreamPool

        def open_call(address: int) -> StreamCall:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
            method = self._channel(address).stream_stream(self._protocol.streams.method)
            return _lasting(method(metadata=grpc.aio.Metadata(*self._metadata(callers))))

        return AsyncStreamPool(self._protocol.streams, open_call, self._unary_only)

    def _method(self, address: int, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel(address).unary_unary(method)
        return call

    def _channel(self, address: int) -> grpc.aio.Channel:
        return self._channels[address][self._connection()]

    async def _cut(self) -> None:
        """Close the channels; calls in flight fail with Cancelled."""
        self._is_closed = True
        if self._loop is asyncio.get_running_loop() and self._generation == GATE.generation:
            for channels in self._channels:
                for channel in channels:
                    await channel.close()
        self._forget_channels()


def _lasting(call: AnyCall) -> AnyCall:
    """Have forks know of a call until it has ended: a fork can't wait for an event loop."""
    GATE.open_stream()
    call.add_done_callback(lambda _: GATE.close_stream())
    return call


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # since Python 3.11
    return cancelling is not None and cancelling() > 0
