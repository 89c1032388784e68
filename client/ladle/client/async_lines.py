"""PredictStream calls for the client that awaits; the tasks of a stream share them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

import grpc

from ladle.client.base import failure as failure_of
from ladle.client.calls import Failure, Send
from ladle.client.errors import Cancelled, DeadlineExceeded, InvalidAnswer
from ladle.client.lines import Answered
from ladle.client.multiplexing import (
    Ledger,
    encode,
    has_no_streams,
    outcome_of_end,
    start_patience_s,
)

StreamCall: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


class AsyncLines:
    """The lines of one stream, one to each server, made when they are wanted."""

    def __init__(self, open_call: Callable[[int], StreamCall], unary_only: set[int]) -> None:
        """`unary_only` holds the addresses that take no streams; those found out are added."""
        self._open_call = open_call
        self._unary_only = unary_only
        self._unable: set[int] = set()  # those that began none when they were asked
        self._lines: dict[int, _Line] = {}
        self._retired: list[_Line] = []

    async def ask(self, send: Send) -> Answered:
        """Send a request, and wait until it is answered or its timeout has passed."""
        if send.address in self._unary_only or send.address in self._unable:
            return None
        line = self._lines.get(send.address)
        if line is None or not line.is_open:
            if line is not None:
                self._retired = [old for old in (*self._retired, line) if not old.has_ended]
            line = self._lines[send.address] = _Line(
                self._open_call(send.address),
                lambda for_good: self._note_unable(send.address, for_good),
                send.asked,
            )
        return await line.ask(send.request.body, send.timeout_s)

    async def close(self) -> None:
        """End all calls; called when no task asks any more."""
        for line in (*self._lines.values(), *self._retired):
            await line.close()

    def _note_unable(self, address: int, for_good: bool) -> None:
        """Have predictions go there by calls of their own: in this stream, or in all to come."""
        (self._unary_only if for_good else self._unable).add(address)


class _Line:
    """One call. It takes requests while it is open, and ends when it is closed or breaks."""

    def __init__(self, call: StreamCall, on_unable: Callable[[bool], None], asked: str) -> None:
        self.is_open = True
        self._call = call
        self._on_unable = on_unable
        self._asked = f"PredictStream at {asked.rpartition(' at ')[2]}"
        self._ledger: Ledger[asyncio.Future[Answered]] = Ledger(self._asked)
        self._end: Answered = None
        self._is_silent = False
        self._begun: asyncio.Future[None] = asyncio.Future()
        self._outbox: asyncio.Queue[bytes] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes of it any more."""
        return self._reader.done()

    async def ask(self, body: bytes, timeout_s: float) -> Answered:
        deadline = time.monotonic() + timeout_s
        # wait_for would take a cancellation for nothing where what it waits for comes with it.
        await asyncio.wait({self._begun}, timeout=start_patience_s(timeout_s))
        if not self._begun.done():
            self._is_silent = True
            self._on_unable(False)
            self._call.cancel()
            return None
        if not self.is_open:
            return self._end
        answered: asyncio.Future[Answered] = asyncio.Future()
        request_id = self._ledger.add(answered)
        self._outbox.put_nowait(encode(request_id, body))
        try:
            await asyncio.wait({answered}, timeout=max(deadline - time.monotonic(), 0.0))
            if answered.done():
                return answered.result()
            # What is still at work there would take from what the server has at once.
            self.is_open = False
            return Failure(
                DeadlineExceeded(f"{self._asked}: the timeout passed before the answer was there")
            )
        finally:
            self._ledger.leave(request_id)
            self._end_if_done()

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.gather(self._reader, self._writer, return_exceptions=True)

    def _end_if_done(self) -> None:
        if not self.is_open and self._ledger.is_empty():
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
            failure = failure_of(error, self._asked)
        except InvalidAnswer as error:
            failure = Failure(error)
            self._call.cancel()
        except asyncio.CancelledError:
            failure = Failure(Cancelled(f"{self._asked}: given up"))
        finally:  # whatever happens, nobody waits any more
            self.is_open = False
            has_started = self._ledger.has_started
            if not self._is_silent:
                self._end = outcome_of_end(failure, has_started, self._asked)
            if self._end is None and not has_started and not self._is_silent:
                self._on_unable(has_no_streams(failure))
            for answered in self._ledger.end():
                if not answered.done():
                    answered.set_result(self._end)
            self._begin()
            self._writer.cancel()

    def _take(self, message: bytes) -> None:
        delivered = self._ledger.read(message)
        self._begin()
        if delivered is not None:
            answered, outcome = delivered
            if not answered.done():
                answered.set_result(outcome)

    def _begin(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)
