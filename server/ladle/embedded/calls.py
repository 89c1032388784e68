"""Calls of the server's methods from inside its process: a Future for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from ladle.server.call import Handler, Methods, NonBlocking, Streaming
from ladle.server.core.errors import Cancelled, ResourceExhausted, ServingError, Unavailable
from ladle.server.core.errors import Unimplemented as NoSuchMethod
from ladle.server.core.observation import Observation

MAX_BLOCKING_CALLS = 512
"""How many calls may wait in threads, or for one; a server's transports have a bound alike."""
_MAX_THREADS = 32


class LocalCall:
    """A Call whose caller is in this process, and gets a Future of the answer's bytes.

    The caller may cancel the Future: the request then leaves its queue.
    """

    local = True
    shared_observation: Observation | None = None

    def __init__(self, request: bytes, deadline: float | None, metadata: Mapping[str, str]) -> None:
        """Take a request message, when the caller stops waiting, and what else the caller says."""
        self.request = request
        self.deadline = deadline
        self.answer: Future[bytes] = Future()
        self._metadata = metadata

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""
        return self._metadata.get(key)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in any thread, when the call is over for its caller."""
        self.answer.add_done_callback(lambda _: callback())

    def discard_request(self) -> None:
        """Let go of the request message."""
        self.request = b""

    def respond(self, response: bytes) -> None:
        """Hand the response message over; never blocks."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_result(response)

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


class LocalCalls:
    """Calls methods by their full paths. Thread-safe."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._lock = threading.Lock()
        self._blocking = 0
        self._threads: ThreadPoolExecutor | None = None
        self._stopped = False

    def call(
        self,
        path: str,
        request: bytes,
        *,
        timeout_s: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Future[bytes]:
        """Call a method; never blocks. The Future raises ServingError where the call fails.

        Args:
            path: such as `/tensorflow.serving.PredictionService/Predict`.
            request: the request message.
            timeout_s: after which the caller has no use for the answer; None for never. What waits
                in a queue for so long is dropped there.
            metadata: what a caller over gRPC would send, by lower-case keys.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        call = LocalCall(request, deadline, metadata or {})
        method = self._methods.get(path)
        if self._stopped:
            call.fail(Unavailable("the server was stopped"))
        elif method is None:
            call.fail(NoSuchMethod(f"{path}: there is no such method"))
        elif isinstance(method, Streaming):
            call.fail(NoSuchMethod(f"{path}: streams are not served inside a process"))
        elif isinstance(method, NonBlocking):
            blocking = method.handle(call)
            if blocking is not None:
                self._in_thread(blocking, call)
        else:
            self._in_thread(method, call)
        return call.answer

    def stop(self) -> None:
        """Refuse further calls; those that wait in threads end with the server."""
        with self._lock:
            self._stopped = True
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    def _in_thread(self, handler: Handler, call: LocalCall) -> None:
        with self._lock:
            refused: ServingError | None = None
            if self._stopped:
                refused = Unavailable("the server was stopped")
            elif self._blocking >= MAX_BLOCKING_CALLS:
                refused = ResourceExhausted(
                    f"expected at most {MAX_BLOCKING_CALLS} calls that wait at a time"
                )
            else:
                self._blocking += 1
                self._threads = self._threads or ThreadPoolExecutor(
                    _MAX_THREADS, thread_name_prefix="embedded"
                )
                begun = self._threads.submit(handler, call)
        if refused is not None:
            call.fail(refused)
        else:
            begun.add_done_callback(partial(self._ended, call))

    def _ended(self, call: LocalCall, begun: Future[None]) -> None:
        with self._lock:
            self._blocking -= 1
        if begun.cancelled():
            call.fail(Cancelled("the server was stopped"))
