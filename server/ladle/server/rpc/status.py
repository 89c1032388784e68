"""The one place where exceptions become statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from ladle.server.call import Call, Handler, NonBlocking
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.rpc.observed import ObservedCall

logger = logging.getLogger(__name__)

# As upstream's middleware does: a status travels in HTTP/2 headers, which proxies bound too.
_MAX_MESSAGE_BYTES = 1024
_CUT = "...TRUNCATED"


ObservedHandler: TypeAlias = Callable[[ObservedCall], None]
NonBlockingMethod: TypeAlias = Callable[[ObservedCall], "ObservedHandler | None"]


@dataclass(frozen=True)
class Middleware:
    """Makes transports' handlers of methods: observed, and with a status for each exception."""

    observer: Observer = field(default_factory=Unobserved)

    def handler(self, path: str, method: Callable[[ObservedCall], bytes]) -> Handler:
        """Make a handler of a method that returns the response or raises."""

        def handle(call: Call) -> None:
            observed = self._observed(call, path)
            try:
                response = method(observed)
            except Exception as error:
                observed.fail(as_status(error, path, observed.seen))
            else:
                observed.respond(response)

        return handle

    def non_blocking(self, path: str, method: NonBlockingMethod) -> NonBlocking:
        """Make a handler of a method that waits for nothing and answers the call itself."""

        def handle(call: Call) -> Handler | None:
            observed = self._observed(call, path)
            try:
                blocking = method(observed)
            except Exception as error:
                observed.fail(as_status(error, path, observed.seen))
                return None
            return blocking and guarded(blocking, observed)

        def guarded(blocking: ObservedHandler, observed: ObservedCall) -> Handler:
            waiting = [observed]  # popped by whatever is first: a thread, or the caller's leaving

            def leave() -> None:
                with suppress(IndexError):
                    waiting.pop().leave()

            def handle(_call: Call) -> None:
                try:
                    observed = waiting.pop()
                except IndexError:
                    return
                try:
                    blocking(observed)
                except Exception as error:
                    observed.fail(as_status(error, path, observed.seen))

            observed.on_end(leave)
            return handle

        return NonBlocking(handle)

    def _observed(self, call: Call, path: str) -> ObservedCall:
        return ObservedCall(call, path.rpartition("/")[2], self.observer)


def as_status(error: Exception, path: str, seen: Observation | None = None) -> ServingError:
    """Return what is sent for an exception; one that is a fault of ours is logged."""
    if isinstance(error, ServingError):
        error.message = bounded(error.message)
        # The frames that it came through hold the request and the call, which holds the error: all
        # that would stay until the next collection.
        error.clear_traceback()
        return error
    request_id = seen.request_id if seen is not None else ""
    logger.error("request failed method=%s request_id=%s", path, request_id, exc_info=error)
    return ServingError("the server failed on this request; its log has the reason", Code.INTERNAL)


def bounded(message: str) -> str:
    """Return a status message that is one line, printable, and short enough to be sent."""
    # Cut twice: what a message quotes may be as long as a request, and grows when it is escaped.
    start = message[: _MAX_MESSAGE_BYTES + 1]
    printable = start
    if not start.isprintable():
        printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in start)
    encoded = printable.encode(errors="backslashreplace")
    if len(encoded) <= _MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: _MAX_MESSAGE_BYTES - len(_CUT)].decode(errors="ignore") + _CUT
