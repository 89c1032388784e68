"""The I/O driver of the blocking client: performs the effects of retry loops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

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
    from ladle.client.coalescing.coalescers import Coalescer
    from ladle.client.streaming.pool import StreamCall, StreamPool
    from ladle.client.streaming.streams import Scope

T = TypeVar("T")

_MOST_AT_ONCE = 32
"""The most servers that a call to every server addresses at once."""


class IODriver(BaseClient):
    """Owns the channels of a blocking client, and makes its calls. Thread-safe."""

    def _predict(self, call: flows.PredictCall, timeout: float | None) -> Prediction:
        return self._run(flows.predict(call, self._known), timeout)

    def _set_up(self) -> None:
        super()._set_up()
        self._coalescer: Coalescer | None = None
        if self._gather_s:
            from ladle.client.coalescing.coalescers import Coalescer

            self._coalescer = Coalescer(self._predict, self._gather_s)
        self._closing = Event()
        self._scopes: WeakSet[Scope] = WeakSet()
        self._channels: list[list[grpc.Channel]] = []
        self._calls: list[list[dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]]] = []

    def _connect(self) -> None:
        """Make the channels with the first call: a process without calls can be forked at any time.

        Raises:
            ValueError: The client was closed.
        """
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self}: a closed client makes no calls")
            if self._calls:
                return
            credentials = self._channel_credentials()
            self._channels = [
                [
                    self._open(address, self._own_options(index), credentials)
                    for _ in range(self._connections)
                ]
                for index, address in enumerate(self._addresses)
            ]
            # Without serialisers, bytes go in and come out as they are.
            self._calls = [
                [
                    {method: channel.unary_unary(method) for method in self._protocol.methods}
                    for channel in channels
                ]
                for channels in self._channels
            ]

    def _cut(self) -> None:
        """Close the channels; calls in flight fail with Cancelled."""
        self._is_closed = True
        if self._generation != GATE.generation:
            return  # the channels belong to the parent process
        self._closing.set()
        with self._lock:
            scopes, channels = [*self._scopes], [c for to in self._channels for c in to]
        for scope in scopes:
            scope.cancel()
        for channel in channels:
            channel.close()

    def _open(
        self, address: str, options: ChannelOptions, credentials: grpc.ChannelCredentials | None
    ) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, credentials, options, self._compression)

    def _run(self, flow: Flow[T], timeout: float | None, *, once: bool = False) -> T:
        return self._finish(self._retry_loop(flow, timeout, once=once))

    def _everywhere(
        self, what: str, flow: Callable[[], Flow[T]], timeout: float | None
    ) -> dict[str, T]:
        """Run a flow at every address in parallel, and return the results by address."""
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        def ask(index: int) -> T | LadleError:
            try:
                return self._finish(self._retry_loop(flow(), timeout, only=index))
            except LadleError as error:
                return error

        addresses = self._fleet.addresses
        with ThreadPoolExecutor(min(len(addresses), _MOST_AT_ONCE)) as executor:
            futures = [
                executor.submit(copy_context().run, ask, index) for index in range(len(addresses))
            ]
            outcomes = [future.result() for future in futures]
        return results_or_raise(what, dict(zip(addresses, outcomes, strict=True)))

    def _finish(self, loop: RetryLoop[T], scope: Scope | None = None) -> T:
        try:
            effect = next(loop)
            while True:
                effect = loop.send(self._perform(effect, scope))
        except StopIteration as finished:
            result: T = finished.value
            return result

    def _perform(self, effect: Send | Pause, scope: Scope | None) -> Outcome:
        """Perform an effect of a retry loop; `scope` can cancel the call."""
        if isinstance(effect, Pause):
            ending = self._closing if scope is None else scope.cancelled
            if ending.wait(effect.seconds):
                raise Cancelled(f"{self}: closed while a call waited to be made again")
            return None
        outcome = self._send(effect, scope)
        ended = outcome.ended[-1][1] if isinstance(outcome, Raced) else outcome
        if isinstance(ended, Failure) and ended.error.code is grpc.StatusCode.CANCELLED:
            if self._is_closed:  # this client cancelled the call, so it is not retried
                raise ended.error
            if scope is not None and scope.cancelled.is_set():
                raise Cancelled(f"{effect.what}: cancelled") from ended.error
        return outcome

    def _send(self, send: Send, scope: Scope | None) -> Outcome:
        try:
            if scope is not None and scope.pool is not None and send.may_stream:
                began = time.monotonic()
                outcome = scope.pool.ask(send)
                if outcome is not None:
                    return outcome
                send = send._replace(timeout_s=send.timeout_s - (time.monotonic() - began))
            metadata = self._metadata(send.request.metadata)
            GATE.enter()
            try:
                return self._call(send, metadata, scope)
            finally:
                GATE.leave()
        except grpc.RpcError as error:
            return failure_of(error, send.what)
        except grpc.FutureCancelledError as error:
            raise Cancelled(f"{send.what}: cancelled") from error
        except LadleError as error:
            return Failure(error)
        except ValueError as error:
            if not self._is_closed:
                raise
            # gRPC raises ValueError for a call on a closed channel.
            raise Cancelled(f"{send.what}: the client was closed") from error

    def _call(
        self, send: Send, metadata: tuple[tuple[str, str], ...], scope: Scope | None
    ) -> bytes | Raced:
        if not self._calls:
            self._connect()
        if send.second is not None:
            return self._race(send, send.second, metadata, scope)
        if send.request.method == requests.PREDICT_IN_CHUNKS:
            assert scope is not None  # the scope keeps the call for the other chunks
            return self._first_chunk(send, metadata, scope)
        method, body = self._method(send.address, send), send.request.body
        if scope is None:
            return method(body, timeout=send.timeout_s, metadata=metadata)
        call = method.future(body, timeout=send.timeout_s, metadata=metadata)
        return scope.wait_for(call)

    def _first_chunk(
        self, send: Send, metadata: tuple[tuple[str, str], ...], scope: Scope
    ) -> bytes:
        if send.address in self._chunkless:
            raise Unimplemented(f"{send.what}: it has no answers in chunks")
        try:
            return scope.first_chunk(self._chunk_call(send, metadata))
        except grpc.RpcError as error:
            if failure_of(error, send.what).error.code is grpc.StatusCode.UNIMPLEMENTED:
                self._chunkless.add(send.address)
            raise

    def _method(self, address: int, send: Send) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._calls[address][self._connection()][send.request.method]

    def _scope(self, pool: StreamPool | None = None) -> Scope:
        """Return a scope, which `close` cancels."""
        from ladle.client.streaming.streams import Scope

        self._check_process()
        scope = Scope(pool)
        with self._lock:
            self._scopes.add(scope)
        return scope

    def _stream_pool(self, callers: tuple[tuple[str, str], ...]) -> StreamPool:
        """Return the calls that carry one stream."""
        from ladle.client.streaming.pool import StreamPool

        def open_call(address: int, outbox: Iterator[bytes]) -> StreamCall:
            if not self._calls:
                self._connect()
            channel = self._channels[address][self._connection()]
            method: grpc.StreamStreamMultiCallable[bytes, bytes]
            method = channel.stream_stream(self._protocol.streams.method)
            return _lasting(method(outbox, metadata=self._metadata(callers)))

        return StreamPool(self._protocol.streams, open_call, self._unary_only)

    def _chunk_call(self, send: Send, metadata: tuple[tuple[str, str], ...]) -> StreamCall:
        channel = self._channels[send.address][self._connection()]
        method: grpc.UnaryStreamMultiCallable[bytes, bytes]
        method = channel.unary_stream(requests.PREDICT_IN_CHUNKS)
        return _lasting(method(send.request.body, timeout=send.timeout_s, metadata=metadata))

    def _in_chunks(self, call: flows.PredictCall, timeout_s: float) -> Iterator[Prediction]:
        """Yield a prediction's rows, from PredictInChunks or from several Predict calls."""
        from ladle.client.streaming.chunks import ChunkReader, next_part, parts

        deadline = self._now() + timeout_s
        if len(self._chunkless) < len(self._fleet.addresses):
            scope, chunks = self._scope(), ChunkReader(call.target)
            flow = flows.predict(replace(call, in_chunks=True), self._known, chunks.start)
            generation = GATE.generation
            try:
                prediction = self._finish(self._retry_loop(flow, timeout_s), scope)
                yield prediction
                assert scope.chunks is not None
                GATE.check(generation, chunks.what)
                for message in scope.chunks:
                    yield replace(prediction, outputs=chunks.read(message).outputs)
                    GATE.check(generation, chunks.what)
                chunks.end()
                return
            except Unimplemented:  # no PredictInChunks: several Predict calls instead
                pass
            except grpc.RpcError as error:
                raise failure_of(error, chunks.what).error from error
            finally:
                if generation == GATE.generation:
                    scope.cancel()
        metadata = self._run(flows.learn(call.target, self._known, self._protocol), timeout_s)
        remaining = parts(call, metadata)
        outcome: Prediction | MessageTooLarge | None = None
        while (part := next_part(remaining, outcome)) is not None:
            try:
                outcome = self._predict(part, self._left_s(deadline, call.target))
            except MessageTooLarge as error:
                outcome = error
            else:
                yield outcome

    def _race(
        self,
        send: Send,
        second: Second,
        metadata: tuple[tuple[str, str], ...],
        scope: Scope | None,
    ) -> Raced:
        """Make a call, and a second one if the first takes long; the first answer counts."""
        from queue import Empty, SimpleQueue  # imported here, because most clients don't hedge

        done: SimpleQueue[grpc.Future[bytes]] = SimpleQueue()
        started: dict[grpc.Future[bytes], tuple[int, str]] = {}

        def start(address: int, what: str, timeout_s: float) -> None:
            call = self._method(address, send).future(
                send.request.body, timeout=timeout_s, metadata=metadata
            )
            started[call] = (address, what)
            if scope is not None:
                scope.add(call)
            call.add_done_callback(done.put)

        ended: list[tuple[int, bytes | Failure]] = []
        try:
            start(send.address, send.what, send.timeout_s)
            try:
                call = done.get(timeout=second.after_s)
            except Empty:
                if send.timeout_s > second.after_s and second.allow():
                    start(second.address, second.what, send.timeout_s - second.after_s)
                call = done.get()
            while True:
                address, what = started[call]
                try:
                    ended.append((address, call.result()))
                    break
                except grpc.RpcError as error:
                    ended.append((address, failure_of(error, what)))
                if len(ended) == len(started):
                    break
                call = done.get()
            return Raced(tuple(ended))
        finally:
            for call in started:
                call.cancel()
                if scope is not None:
                    scope.discard(call)


def _lasting(call: StreamCall) -> StreamCall:
    """Have forks know of a call that may last, until it has ended."""
    GATE.open_stream()
    if not call.add_callback(GATE.close_stream):  # it has ended already
        GATE.close_stream()
    return call
