"""The services' side of a request over REST: a Call that an event loop waits for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple, TypeVar

from ladle.protos.serving_pb import ModelSpec
from ladle.server.call import Methods, NonBlocking, Streaming
from ladle.server.core.errors import Cancelled, DeadlineExceeded, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.rest.json.process import LARGE_BYTES, JsonProcesses
from ladle.server.rest.request import Request
from ladle.server.rpc.prediction.predict import TENSOR_CONTENT_KEY
from ladle.server.rpc.request import find_version

T = TypeVar("T")

# Larger messages are read and written in a thread, so that the loop goes on.
MAX_INLINE_BYTES = 32 << 10


class Pools(NamedTuple):
    """Whose threads take what the event loop should not do itself."""

    working: Executor
    """Reads and writes large messages."""
    waiting: Executor
    """Handles calls that wait for something, so that waiting keeps no thread from working."""
    processes: JsonProcesses
    """Read and write what would hold up all threads of this process."""


class Services:
    """Calls the services' methods as a transport does."""

    def __init__(self, methods: Methods, pools: Pools) -> None:
        self.methods = methods
        self.pools = pools
        self._inbox: Inbox | None = None

    async def call(self, path: str, message: bytes, request: Request) -> bytes:
        """Return the response message of a method to `message`, sent on behalf of `request`.

        Raises:
            ServingError: The method refused; the deadline passed; or the caller has gone away.
        """
        method = self.methods[path]
        assert not isinstance(method, Streaming), f"{path} answers streams"
        call = RestCall(message, request, self._inbox_of(asyncio.get_running_loop()))
        try:
            if not isinstance(method, NonBlocking):
                self.pools.waiting.submit(method, call)
            else:
                handle = method.handle
                blocking = (
                    handle(call)
                    if len(message) <= MAX_INLINE_BYTES
                    else await self.work(handle, call)
                )
                if blocking is not None:
                    self.pools.waiting.submit(blocking, call)
            return await call.outcome()
        finally:
            call.end()

    def _inbox_of(self, loop: asyncio.AbstractEventLoop) -> Inbox:
        if self._inbox is None or self._inbox.loop is not loop:
            self._inbox = Inbox(loop)
        return self._inbox

    async def acquire(self, manager: Manager, spec: ModelSpec, request: Request) -> Handle:
        """Return a handle on the version that a request names; waits for a model's first version.

        Raises:
            ServingError: As `find_version`; or it does not load in time; or the caller went away.
        """
        found = find_version(manager, spec)
        if isinstance(found, Handle):
            return found
        on_end = None if request.gone is None else _once_done(request.gone)
        waiting = self.pools.waiting.submit(found.wait, request.deadline, on_end)
        try:
            return await asyncio.wrap_future(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(_release)  # the wait may end with a handle all the same
            raise

    async def work(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what a function returns that takes too long for the loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pools.working, function, *arguments)

    async def sized(
        self, nbytes: int, deadline: float, function: Callable[..., T], *arguments: object
    ) -> T:
        """Return what a function returns that reads or writes JSON.

        It is called in the loop's thread, in another, or in another process, by how much there is
        to read.

        Args:
            nbytes: the size of the message that it reads.
            deadline: the monotonic time at which a process is ended; the others go on.
            function: importable by its name, as are the types of its arguments and result.
            arguments: what it is called with.

        Raises:
            ServingError: As the function, and as `JsonProcesses.call`.
        """
        if nbytes <= MAX_INLINE_BYTES:
            return function(*arguments)
        if nbytes < LARGE_BYTES:
            return await self.work(function, *arguments)
        return await self.work(self.pools.processes.call, deadline, function, *arguments)


def _release(waiting: Future[Handle]) -> None:
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().release()


def _once_done(future: asyncio.Future[None]) -> Callable[[Callable[[], None]], None]:
    """Return what takes callbacks, in any thread, and calls each at least once after `future`."""
    callbacks: list[Callable[[], None]] = []

    def call_all(_: object) -> None:
        for callback in callbacks:
            callback()

    def add(callback: Callable[[], None]) -> None:
        callbacks.append(callback)
        if future.done():
            callback()

    future.add_done_callback(call_all)
    return add


class Inbox:
    """Calls in its event loop what other threads leave here; it is woken once for many of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._left: deque[Callable[[], None]] = deque()
        self._is_woken = False

    def leave(self, callback: Callable[[], None]) -> None:
        """Have `callback` called; any thread may do so, and never blocks."""
        # In this order: what is left before a look at the flag, `_call_all` finds or is woken for.
        self._left.append(callback)
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # a loop that has stopped has nobody to tell
                self.loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        self._is_woken = False
        for _ in range(len(self._left)):
            self._left.popleft()()
        if self._left and not self._is_woken:
            self._is_woken = True
            self.loop.call_soon(self._call_all)


class RestCall:
    """A Call that is awaited in an event loop; made in the loop's thread."""

    def __init__(self, message: bytes, request: Request, inbox: Inbox) -> None:
        self.request = message
        self.local = request.local
        self.shared_observation = request.observation
        self.deadline: float | None = request.deadline
        self._headers: Mapping[str, str] = request.headers
        self._gone = request.gone
        self._inbox = inbox
        self._answer: asyncio.Future[bytes] = inbox.loop.create_future()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] | None = []

    def metadata(self, key: str) -> str | None:
        """Return a header; answers come in `tensor_content`, whatever the caller says."""
        return "true" if key == TENSOR_CONTENT_KEY else self._headers.get(key)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the call is over for its caller."""
        with self._lock:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback()

    def discard_request(self) -> None:
        """Let go of the request message."""
        self.request = b""

    def respond(self, response: bytes) -> None:
        """Hand the response message over; never blocks."""
        self._inbox.leave(partial(self._end_with, response))

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        self._inbox.leave(partial(self._end_with, error))

    async def outcome(self) -> bytes:
        """Return the response message.

        Raises:
            ServingError: The call was refused, its deadline passed, or its caller went away.
        """
        # One future completed by whatever comes first: waiting for several costs twice as much.
        assert self.deadline is not None
        # What asyncio's clock shows is the monotonic time.
        timer = self._inbox.loop.call_at(self.deadline, self._end_late)
        if self._gone is not None:
            self._gone.add_done_callback(self._caller_left)
        try:
            return await self._answer
        finally:
            timer.cancel()
            if self._gone is not None:
                self._gone.remove_done_callback(self._caller_left)

    def end(self) -> None:
        """Say that nobody waits any more; called in the loop's thread."""
        self._answer.cancel()
        with self._lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    def _caller_left(self, _: asyncio.Future[None]) -> None:
        self._end_with(Cancelled("the caller went away"))

    def _end_late(self) -> None:
        self._end_with(
            DeadlineExceeded("the answer was not there in time (--rest_api_timeout_in_ms)")
        )

    def _end_with(self, outcome: bytes | ServingError) -> None:
        if self._answer.done():
            return
        if isinstance(outcome, ServingError):
            self._answer.set_exception(outcome)
        else:
            self._answer.set_result(outcome)
