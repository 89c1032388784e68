"""How the client that blocks waits: it sends and pauses as conversations tell it to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

import grpc

from ladle.client import flows, requests
from ladle.client.base import BaseClient, failure
from ladle.client.calls import Conversation, Failure, Outcome, Raced, Second, Send
from ladle.client.connection import ChannelOptions
from ladle.client.errors import Cancelled, LadleError, MessageTooLarge, Unimplemented
from ladle.client.fleet import settle
from ladle.client.flows import Flow, Pause
from ladle.client.prediction import Prediction

if TYPE_CHECKING:
    from ladle.client.coalescers import Coalescer
    from ladle.client.lines import Lines, StreamCall
    from ladle.client.streams import Scope

T = TypeVar("T")

_MOST_AT_ONCE = 32
"""How many servers are asked at once, where all are."""


class Shell(BaseClient):
    """The channels of a client that blocks, and all that touches them. Thread-safe."""

    def _predict(self, wanted: flows.Wanted, timeout: float | None) -> Prediction:
        return self._run(flows.predict(wanted, self._known), timeout)

    def _set_up(self) -> None:
        self._coalescer: Coalescer | None = None
        if self._gather_s:
            from ladle.client.coalescers import Coalescer

            self._coalescer = Coalescer(self._predict, self._gather_s)
        self._closing = Event()
        self._scopes: WeakSet[Scope] = WeakSet()
        self._scopes_lock = Lock()
        self._channels = [
            [self._open(address, options) for _ in range(self._connections)]
            for address, options in zip(self._fleet.addresses, self._channel_options, strict=True)
        ]
        # Without serialisers, bytes go in and come out as they are.
        self._calls: list[list[dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]]]] = [
            [{method: channel.unary_unary(method) for method in requests.METHODS} for channel in to]
            for to in self._channels
        ]

    def _cut(self) -> None:
        """Close the channels; calls that are under way fail as cancelled."""
        self._is_closed = True
        self._closing.set()
        with self._scopes_lock:
            scopes = [*self._scopes]
        for scope in scopes:
            scope.cancel()
        for channels in self._channels:
            for channel in channels:
                channel.close()

    def _open(self, address: str, options: ChannelOptions) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(address, options, self._compression)
        return grpc.secure_channel(address, self._credentials, options, self._compression)

    def _run(self, flow: Flow[T], timeout: float | None, *, once: bool = False) -> T:
        return self._finish(self._conversation(flow, timeout, once=once))

    def _everywhere(
        self, what: str, flow: Callable[[], Flow[T]], timeout: float | None
    ) -> dict[str, T]:
        """Run a flow with every server, all at once up to a bound, and return what each gave."""
        from concurrent.futures import ThreadPoolExecutor
        from contextvars import copy_context

        def ask(index: int) -> T | LadleError:
            try:
                return self._finish(self._conversation(flow(), timeout, only=index))
            except LadleError as error:
                return error

        addresses = self._fleet.addresses
        with ThreadPoolExecutor(min(len(addresses), _MOST_AT_ONCE)) as executor:
            asked = [
                executor.submit(copy_context().run, ask, index) for index in range(len(addresses))
            ]
            outcomes = [future.result() for future in asked]
        return settle(what, dict(zip(addresses, outcomes, strict=True)))

    def _finish(self, conversation: Conversation[T], scope: Scope | None = None) -> T:
        try:
            effect = next(conversation)
            while True:
                effect = conversation.send(self._perform(effect, scope))
        except StopIteration as finished:
            result: T = finished.value
            return result

    def _perform(self, effect: Send | Pause, scope: Scope | None) -> Outcome:
        """Do what a conversation wants; `scope` is where the call can be cancelled from."""
        if isinstance(effect, Pause):
            ending = self._closing if scope is None else scope.cancelled
            if ending.wait(effect.seconds):
                raise Cancelled(f"{self}: closed while a call waited to be made again")
            return None
        outcome = self._send(effect, scope)
        ended = outcome.ended[-1][1] if isinstance(outcome, Raced) else outcome
        if isinstance(ended, Failure) and ended.error.code is grpc.StatusCode.CANCELLED:
            if self._is_closed:  # not the server's doing: nothing to be retried
                raise ended.error
            if scope is not None and scope.cancelled.is_set():
                raise Cancelled(f"{effect.asked}: given up") from ended.error
        return outcome

    def _send(self, send: Send, scope: Scope | None) -> Outcome:
        try:
            if scope is not None and scope.lines is not None and send.may_stream:
                began = time.monotonic()
                outcome = scope.lines.ask(send)
                if outcome is not None:
                    return outcome
                send = send._replace(timeout_s=send.timeout_s - (time.monotonic() - began))
            metadata = self._metadata()
            if send.second is not None:
                return self._race(send, send.second, metadata, scope)
            if send.request.method == requests.PREDICT_IN_CHUNKS:
                assert scope is not None  # nothing else could take the other chunks
                return self._first_chunk(send, metadata, scope)
            method, body = self._method(send.address, send), send.request.body
            if scope is None:
                return method(body, timeout=send.timeout_s, metadata=metadata)
            call = method.future(body, timeout=send.timeout_s, metadata=metadata)
            return scope.wait_for(call)
        except grpc.RpcError as error:
            return failure(error, send.asked)
        except grpc.FutureCancelledError as error:
            raise Cancelled(f"{send.asked}: given up") from error
        except LadleError as error:
            return Failure(error)
        except ValueError as error:
            if not self._is_closed:
                raise
            # gRPC's own way to tell of a channel that is closed between two calls.
            raise Cancelled(f"{send.asked}: the client was closed") from error

    def _first_chunk(
        self, send: Send, metadata: tuple[tuple[str, str], ...], scope: Scope
    ) -> bytes:
        if send.address in self._chunkless:
            raise Unimplemented(f"{send.asked}: it has no answers in chunks")
        try:
            return scope.first_chunk(self._chunk_call(send, metadata))
        except grpc.RpcError as error:
            if failure(error, send.asked).error.code is grpc.StatusCode.UNIMPLEMENTED:
                self._chunkless.add(send.address)
            raise

    def _method(self, address: int, send: Send) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        return self._calls[address][self._connection()][send.request.method]

    def _scope(self, lines: Lines | None = None) -> Scope:
        """Return a scope that ends with the client, if not before."""
        from ladle.client.streams import Scope

        scope = Scope(lines)
        with self._scopes_lock:
            self._scopes.add(scope)
        return scope

    def _lines(self) -> Lines:
        """Return what carries a stream's predictions, to the servers that take streams."""
        from ladle.client.lines import Lines

        def open_call(address: int, outbox: Iterator[bytes]) -> StreamCall:
            channel = self._channels[address][self._connection()]
            method: grpc.StreamStreamMultiCallable[bytes, bytes]
            method = channel.stream_stream(requests.PREDICT_STREAM)
            return method(outbox, metadata=self._metadata())

        return Lines(open_call, failure, self._unary_only)

    def _chunk_call(self, send: Send, metadata: tuple[tuple[str, str], ...]) -> StreamCall:
        channel = self._channels[send.address][self._connection()]
        method: grpc.UnaryStreamMultiCallable[bytes, bytes]
        method = channel.unary_stream(requests.PREDICT_IN_CHUNKS)
        return method(send.request.body, timeout=send.timeout_s, metadata=metadata)

    def _in_chunks(self, wanted: flows.Wanted, timeout_s: float) -> Iterator[Prediction]:
        """Yield a prediction's rows as the server sends them, or as it answers for some of them."""
        from ladle.client.chunking import Chunks, next_part, parts

        deadline = self._now() + timeout_s
        if len(self._chunkless) < len(self._fleet.addresses):
            scope, chunks = self._scope(), Chunks(wanted.asked)
            flow = flows.predict(replace(wanted, in_chunks=True), self._known, chunks.start)
            try:
                prediction = self._finish(self._conversation(flow, timeout_s), scope)
                yield prediction
                assert scope.chunks is not None
                for message in scope.chunks:
                    yield replace(prediction, outputs=chunks.read(message).outputs)
                chunks.end()
                return
            except Unimplemented:  # then parts are asked for
                pass
            except grpc.RpcError as error:
                raise failure(error, chunks.what).error from error
            finally:
                scope.cancel()
        metadata = self._run(flows.learn(wanted.asked, self._known), timeout_s)
        asked = parts(wanted, metadata)
        outcome: Prediction | MessageTooLarge | None = None
        while (part := next_part(asked, outcome)) is not None:
            try:
                outcome = self._predict(part, self._left_s(deadline, wanted.asked))
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
        """Make a call, and a second one where the first takes long; the first answer counts."""
        from queue import Empty, SimpleQueue  # here, for the many who never hedge

        done: SimpleQueue[grpc.Future[bytes]] = SimpleQueue()
        started: dict[grpc.Future[bytes], tuple[int, str]] = {}

        def start(address: int, asked: str, timeout_s: float) -> None:
            call = self._method(address, send).future(
                send.request.body, timeout=timeout_s, metadata=metadata
            )
            started[call] = (address, asked)
            if scope is not None:
                scope.add(call)
            call.add_done_callback(done.put)

        ended: list[tuple[int, bytes | Failure]] = []
        try:
            start(send.address, send.asked, send.timeout_s)
            try:
                call = done.get(timeout=second.after_s)
            except Empty:
                if send.timeout_s > second.after_s and second.allow():
                    start(second.address, second.asked, send.timeout_s - second.after_s)
                call = done.get()
            while True:
                address, asked = started[call]
                try:
                    ended.append((address, call.result()))
                    break
                except grpc.RpcError as error:
                    ended.append((address, failure(error, asked)))
                if len(ended) == len(started):
                    break
                call = done.get()
            return Raced(tuple(ended))
        finally:
            for call in started:
                call.cancel()
                if scope is not None:
                    scope.discard(call)
