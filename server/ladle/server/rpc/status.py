"""The one place where exceptions become statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ladle.server.call import Call, Handler, Prompt
from ladle.server.core.errors import Code, ServingError

logger = logging.getLogger(__name__)

# As upstream's edge does: a status travels in HTTP/2 headers, which proxies bound too.
_MAX_MESSAGE_BYTES = 1024
_CUT = "...TRUNCATED"


def handler(path: str, method: Callable[[Call], bytes]) -> Handler:
    """Make a transport's handler of a method that returns the response or raises."""

    def handle(call: Call) -> None:
        try:
            response = method(call)
        except Exception as error:
            call.refuse(as_status(error, path))
        else:
            call.answer(response)

    return handle


def prompt(path: str, method: Callable[[Call], Handler | None]) -> Prompt:
    """Make a transport's handler of a method that waits for nothing and answers the call itself."""

    def handle(call: Call) -> Handler | None:
        try:
            blocking = method(call)
        except Exception as error:
            call.refuse(as_status(error, path))
            return None
        return blocking and guarded(blocking)

    def guarded(blocking: Handler) -> Handler:
        def handle(call: Call) -> None:
            try:
                blocking(call)
            except Exception as error:
                call.refuse(as_status(error, path))

        return handle

    return Prompt(handle)


def as_status(error: Exception, path: str) -> ServingError:
    """Return what is sent for an exception; one that is a fault of ours is logged."""
    if isinstance(error, ServingError):
        error.message = bounded(error.message)
        return error
    logger.error("request failed method=%s", path, exc_info=error)
    return ServingError("the server failed on this request; its log has the reason", Code.INTERNAL)


def bounded(message: str) -> str:
    """Return a status message that is one line, printable, and short enough to be sent."""
    # Cut twice: what a message quotes may be as long as a request, and grows when it is escaped.
    start = message[: _MAX_MESSAGE_BYTES + 1]
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in start)
    encoded = printable.encode(errors="backslashreplace")
    if len(encoded) <= _MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: _MAX_MESSAGE_BYTES - len(_CUT)].decode(errors="ignore") + _CUT
