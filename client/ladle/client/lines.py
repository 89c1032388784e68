"""PredictStream calls for the client that blocks; the threads of a stream share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TypeAlias

import grpc

from ladle.client.calls import Failure, Send
from ladle.client.errors import DeadlineExceeded, InvalidAnswer
from ladle.client.multiplexing import (
    Ledger,
    encode,
    has_no_streams,
    outcome_of_end,
    start_patience_s,
)

Answered: TypeAlias = "bytes | Failure | None"
"""What comes of a request; None where it has to be asked by a call of its own."""

StreamCall: TypeAlias = "grpc._CallIterator[bytes]"
Open: TypeAlias = "Callable[[int, Iterator[bytes]], StreamCall]"
"""Begins a PredictStream call to an address, by its index, that sends what the iterator gives."""
Failed: TypeAlias = "Callable[[grpc.RpcError, str], Failure]"


class Lines:
    """The lines of one stream, one to each server, made when they are wanted. Thread-safe."""

    def __init__(self, open_call: Open, failed: Failed, unary_only: set[int]) -> None:
        """`unary_only` holds the addresses that take no streams; those found out are added."""
        self._open_call = open_call
        self._failed = failed
        self._unary_only = unary_only
        self._unable: set[int] = set()  # those that began none when they were asked
        self._lines: dict[int, _Line] = {}
        self._retired: list[_Line] = []
        self._closed = False
        self._lock = Lock()

    def ask(self, send: Send) -> Answered:
        """Send a request, and wait until it is answered or its timeout has passed."""
        with self._lock:
            line = self._lines.get(send.address)
            if line is None or not line.is_open:
                if send.address in self._unary_only or send.address in self._unable:
                    return None
                line = self._replace(line, send)
        return line.ask(send.request.body, send.timeout_s)

    def cancel(self) -> None:
        """End all calls, and those to come."""
        with self._lock:
            self._closed = True
        for line in self._all():
            line.cancel()

    def join(self) -> None:
        """Wait until the calls have ended, and their threads."""
        for line in self._all():
            line.join()

    def _all(self) -> list[_Line]:
        with self._lock:
            return [*self._lines.values(), *self._retired]

    def _replace(self, old: _Line | None, send: Send) -> _Line:
        if old is not None:
            self._retired = [line for line in (*self._retired, old) if not line.has_ended]
        line = _Line(
            lambda outbox: self._open_call(send.address, outbox),
            self._failed,
            lambda for_good: self._note_unable(send.address, for_good),
            send.asked,
        )
        self._lines[send.address] = line
        if self._closed:
            line.cancel()
        return line

    def _note_unable(self, address: int, for_good: bool) -> None:
        """Have predictions go there by calls of their own: in this stream, or in all to come."""
        (self._unary_only if for_good else self._unable).add(address)


class _Line:
    """One call. It takes requests while it is open, and ends when it is cancelled or breaks."""

    def __init__(
        self,
        open_call: Callable[[Iterator[bytes]], StreamCall],
        failed: Failed,
        on_unable: Callable[[bool], None],
        asked: str,
    ) -> None:
        self.is_open = True
        self._is_silent = False
        self._asked = f"PredictStream at {asked.rpartition(' at ')[2]}"
        self._failed = failed
        self._on_unable = on_unable
        self._ledger: Ledger[Future[Answered]] = Ledger(self._asked)
        self._lock = Lock()
        self._end: Answered = None
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._may_send = Event()
        self._call = open_call(self._requests())
        self._reader = Thread(target=self._read, name="ladle-stream-reader", daemon=True)
        self._reader.start()

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes of it any more."""
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
            request_id = self._ledger.add(answered)
        self._outbox.put(encode(request_id, body))
        try:
            return answered.result(max(deadline - time.monotonic(), 0.0))
        except FutureTimeout:
            self._retire(request_id)
            return Failure(
                DeadlineExceeded(f"{self._asked}: the timeout passed before the answer was there")
            )

    def cancel(self) -> None:
        self._call.cancel()

    def join(self) -> None:
        self._reader.join()

    def _retire(self, request_id: int) -> None:
        """Take no more: what is still at work there would take from what the server has at once.

        The others keep their answers; the last one who waits ends the call.
        """
        with self._lock:
            self.is_open = False
            self._ledger.leave(request_id)
            is_empty = self._ledger.is_empty()
        if is_empty:
            self._call.cancel()

    def _requests(self) -> Iterator[bytes]:
        """Give gRPC's thread what is to be sent."""
        while (message := self._outbox.get()) is not None:
            yield message

    def _read(self) -> None:
        failure: Failure | None = None
        try:
            for message in self._call:
                self._take(message)
        except grpc.RpcError as error:
            failure = self._failed(error, self._asked)
        except InvalidAnswer as error:
            failure = Failure(error)
            self._call.cancel()
        finally:  # whatever happens, nobody waits any more
            has_started = self._ledger.has_started
            if not self._is_silent:
                self._end = outcome_of_end(failure, has_started, self._asked)
            if self._end is None and not has_started and not self._is_silent:
                self._on_unable(has_no_streams(failure))
            with self._lock:
                self.is_open = False
                waiting = self._ledger.end()
            for answered in waiting:
                answered.set_result(self._end)
            self._outbox.put(None)
            self._may_send.set()

    def _take(self, message: bytes) -> None:
        with self._lock:
            delivered = self._ledger.read(message)
            is_done = not self.is_open and self._ledger.is_empty()
        self._may_send.set()
        if delivered is not None:
            answered, outcome = delivered
            answered.set_result(outcome)
        if is_done:
            self._call.cancel()
