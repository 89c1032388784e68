"""Streaming calls of the asyncio client. The tasks of one `AsyncClient.stream` share them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc

from ladle.client.calls.effects import Failure, Send, failure_of
from ladle.client.errors import Cancelled, DeadlineExceeded, LadleError
from ladle.client.messages.streams import StreamMessages
from ladle.client.streaming.pending import (
    PendingTable,
    has_no_streams,
    outcome_of_end,
    start_patience_s,
)
from ladle.client.streaming.pool import Answered

StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class AsyncStreamPool:
    """The calls that carry one `AsyncClient.stream`, one for each server."""

    def __init__(
        self,
        messages: StreamMessages,
        open_call: Callable[[int], StreamCall],
        unary_only: set[int],
    ) -> None:
        """`unary_only`: the addresses without such calls. The pool adds those that it finds."""
        self._messages = messages
        self._open_call = open_call
        self._unary_only = unary_only
        self._unable: set[int] = set()  # addresses that did not start a stream in time
        self._streams: dict[int, _Stream] = {}
        self._retired: list[_Stream] = []

    async def ask(self, send: Send) -> Answered:
        """Send a request, and wait for its answer or its timeout."""
        if send.address in self._unary_only or send.address in self._unable:
            return None
        stream = self._streams.get(send.address)
        if stream is None or not stream.is_open:
            if stream is not None:
                self._retired = [old for old in (*self._retired, stream) if not old.has_ended]
            stream = self._streams[send.address] = _Stream(
                self._messages,
                self._open_call(send.address),
                lambda for_good: self._note_unable(send.address, for_good),
                send.what,
            )
        return await stream.ask(send.request.body, send.timeout_s)

    async def close(self) -> None:
        """End all calls. To be called when no task waits in `ask`."""
        for stream in (*self._streams.values(), *self._retired):
            await stream.close()

    def _note_unable(self, address: int, for_good: bool) -> None:
        """Send predictions for this address as unary calls: in this stream, or for good."""
        (self._unary_only if for_good else self._unable).add(address)


class _Stream:
    """One streaming call; it takes requests while `is_open`."""

    def __init__(
        self,
        messages: StreamMessages,
        call: StreamCall,
        on_unable: Callable[[bool], None],
        what: str,
    ) -> None:
        self.is_open = True
        self._call = call
        self._on_unable = on_unable
        self._messages = messages
        self._what = f"{messages.method.rpartition('/')[2]} at {what.rpartition(' at ')[2]}"
        self._pending: PendingTable[asyncio.Future[Answered]] = PendingTable(messages, self._what)
        self._end: Answered = None
        self._is_silent = False
        self._begun: asyncio.Future[None] = asyncio.Future()
        if not messages.has_start:
            self._begin()
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        """Whether the call has ended, so that no more answers come."""
        return self._reader.done()

    async def ask(self, body: bytes, timeout_s: float) -> Answered:
        deadline = time.monotonic() + timeout_s
        # Not wait_for: it can lose a cancellation that comes together with the result.
        await asyncio.wait({self._begun}, timeout=start_patience_s(timeout_s))
        if not self._begun.done():
            self._is_silent = True
            self._on_unable(False)
            self._call.cancel()
            return None
        if not self.is_open:
            return self._end
        answered: asyncio.Future[Answered] = asyncio.Future()
        request_id = self._pending.add(answered)
        self._outbox.put_nowait(self._messages.encode(request_id, body))
        try:
            await asyncio.wait({answered}, timeout=max(deadline - time.monotonic(), 0.0))
            if answered.done():
                return answered.result()
            # The timed-out request still occupies the server's window, so no more are added.
            self.is_open = False
            return Failure(
                DeadlineExceeded(f"{self._what}: the timeout passed before the answer was there")
            )
        finally:
            self._pending.forget(request_id)
            self._end_if_done()

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)

    def _end_if_done(self) -> None:
        if not self.is_open and self._pending.is_empty():
            self._call.cancel()

    async def _write(self) -> None:
        while True:
            await self._call.write(await self._outbox.get())

    async def _read(self) -> None:
        failure: Failure | None = None
        try:
            async for message in self._call:
                self._take(message)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error, self._what)
        except LadleError as error:
            failure = Failure(error)
            self._call.cancel()
        except asyncio.CancelledError:
            failure = Failure(Cancelled(f"{self._what}: given up"))
        finally:  # every waiting task has to wake, whatever happened
            self.is_open = False
            has_started = self._pending.has_started
            if not self._is_silent:
                self._end = outcome_of_end(failure, has_started, self._what)
            if self._end is None and not has_started and not self._is_silent:
                self._on_unable(has_no_streams(failure))
            for answered in self._pending.end():
                if not answered.done():
                    answered.set_result(self._end)
            self._begin()
            self._writer.cancel()

    def _take(self, message: bytes) -> None:
        delivered = self._pending.read(message)
        self._begin()
        if delivered is not None:
            answered, outcome = delivered
            if not answered.done():
                answered.set_result(outcome)

    def _begin(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)
