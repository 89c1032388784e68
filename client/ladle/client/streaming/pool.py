"""Streaming calls of the blocking client. The threads of one `Client.stream` share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias

import grpc

from ladle.client.calls.effects import Failure, Send, failure_of
from ladle.client.errors import DeadlineExceeded, LadleError
from ladle.client.messages.streams import StreamMessages
from ladle.client.streaming.pending import (
    PendingTable,
    has_no_streams,
    outcome_of_end,
    start_patience_s,
)

Answered: TypeAlias = "bytes | Failure | None"
"""The result of a request; None means that the request has to go as a unary call."""

StreamCall: TypeAlias = "grpc._CallIterator[bytes]"
Open: TypeAlias = "Callable[[int, Iterator[bytes]], StreamCall]"
"""Starts a streaming call to an address, given by index; it sends what the iterator yields."""


class StreamPool:
    """The calls that carry one `Client.stream`: one for each server, opened when first used.

    Thread-safe.
    """

    def __init__(self, messages: StreamMessages, open_call: Open, unary_only: set[int]) -> None:
        """`unary_only`: the addresses without such calls. The pool adds those that it finds."""
        self._messages = messages
        self._open_call = open_call
        self._unary_only = unary_only
        self._unable: set[int] = set()  # addresses that did not start a stream in time
        self._streams: dict[int, _Stream] = {}
        self._retired: list[_Stream] = []
        self._closed = False
        self._lock = Lock()

    def ask(self, send: Send) -> Answered:
        """Send a request, and wait for its answer or its timeout."""
        with self._lock:
            stream = self._streams.get(send.address)
            if stream is None or not stream.is_open:
                if send.address in self._unary_only or send.address in self._unable:
                    return None
                stream = self._replace(stream, send)
        return stream.ask(send.request.body, send.timeout_s)

    def cancel(self) -> None:
        """Cancel all calls, and every call opened later."""
        with self._lock:
            self._closed = True
        for stream in self._all():
            stream.cancel()

    def join(self) -> None:
        """Wait until the calls and their reader threads have ended."""
        for stream in self._all():
            stream.join()

    def _all(self) -> list[_Stream]:
        with self._lock:
            return [*self._streams.values(), *self._retired]

    def _replace(self, old: _Stream | None, send: Send) -> _Stream:
        if old is not None:
            self._retired = [stream for stream in (*self._retired, old) if not stream.has_ended]
        stream = _Stream(
            self._messages,
            lambda outbox: self._open_call(send.address, outbox),
            lambda for_good: self._note_unable(send.address, for_good),
            send.what,
        )
        self._streams[send.address] = stream
        if self._closed:
            stream.cancel()
        return stream

    def _note_unable(self, address: int, for_good: bool) -> None:
        """Send predictions for this address as unary calls: in this stream, or for good."""
        (self._unary_only if for_good else self._unable).add(address)


class _Stream:
    """One streaming call; it takes requests while `is_open`."""

    def __init__(
        self,
        messages: StreamMessages,
        open_call: Callable[[Iterator[bytes]], StreamCall],
        on_unable: Callable[[bool], None],
        what: str,
    ) -> None:
        self.is_open = True
        self._is_silent = False
        self._messages = messages
        self._what = f"{messages.method.rpartition('/')[2]} at {what.rpartition(' at ')[2]}"
        self._on_unable = on_unable
        self._pending: PendingTable[Future[Answered]] = PendingTable(messages, self._what)
        self._lock = Lock()
        self._end: Answered = None
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._may_send = Event()
        if not messages.has_start:
            self._may_send.set()
        self._call = open_call(self._requests())
        self._reader = Thread(target=self._read, name="ladle-stream-reader", daemon=True)
        self._reader.start()

    @property
    def has_ended(self) -> bool:
        """Whether the call has ended, so that no more answers come."""
        return not self._reader.is_alive()

    def ask(self, body: bytes, timeout_s: float) -> Answered:
        deadline = time.monotonic() + timeout_s
        if not self._may_send.wait(start_patience_s(timeout_s)):
            self._is_silent = True
            self._on_unable(False)
            self._call.cancel()
            return None
        answered: Future[Answered] = Future()
        with self._lock:
            if not self.is_open:
                return self._end
            request_id = self._pending.add(answered)
        self._outbox.put(self._messages.encode(request_id, body))
        try:
            return answered.result(max(deadline - time.monotonic(), 0.0))
        except FutureTimeout:
            self._retire(request_id)
            return Failure(
                DeadlineExceeded(f"{self._what}: the timeout passed before the answer was there")
            )

    def cancel(self) -> None:
        self._call.cancel()

    def join(self) -> None:
        self._reader.join()

    def _retire(self, request_id: int) -> None:
        """Take no more requests, because a timed-out request still occupies the server's window.

        Other requests keep waiting for their answers. The last of them ends the call.
        """
        with self._lock:
            self.is_open = False
            self._pending.forget(request_id)
            is_empty = self._pending.is_empty()
        if is_empty:
            self._call.cancel()

    def _requests(self) -> Iterator[bytes]:
        """Yield the messages to send, in gRPC's thread."""
        while (message := self._outbox.get()) is not None:
            yield message

    def _read(self) -> None:
        failure: Failure | None = None
        try:
            for message in self._call:
                self._take(message)
        except grpc.RpcError as error:
            failure = failure_of(error, self._what)
        except LadleError as error:
            failure = Failure(error)
            self._call.cancel()
        finally:  # every waiting thread has to wake, whatever happened
            has_started = self._pending.has_started
            if not self._is_silent:
                self._end = outcome_of_end(failure, has_started, self._what)
            if self._end is None and not has_started and not self._is_silent:
                self._on_unable(has_no_streams(failure))
            with self._lock:
                self.is_open = False
                waiting = self._pending.end()
            for answered in waiting:
                answered.set_result(self._end)
            self._outbox.put(None)
            self._may_send.set()

    def _take(self, message: bytes) -> None:
        with self._lock:
            delivered = self._pending.read(message)
            is_done = not self.is_open and self._pending.is_empty()
        self._may_send.set()
        if delivered is not None:
            answered, outcome = delivered
            answered.set_result(outcome)
        if is_done:
            self._call.cancel()
