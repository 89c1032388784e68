"""The one place where exceptions become statuses."""

from __future__ import annotations

import logging

from ladle.server.core.errors import Code, ResourceExhausted, ServingError
from ladle.server.core.observation import Observation

logger = logging.getLogger(__name__)

# As upstream does: a status travels in HTTP/2 headers, which proxies bound too.
_MAX_MESSAGE_BYTES = 1024
_CUT = "...TRUNCATED"


def as_status(error: Exception, path: str, observation: Observation | None = None) -> ServingError:
    """Return what is sent for an exception; one that is a fault of ours is logged."""
    if isinstance(error, ServingError):
        error.message = bounded(error.message)
        # The frames that it came through hold the request and the call, which holds the error: all
        # that would stay until the next collection.
        error.clear_traceback()
        return error
    request_id = observation.request_id if observation is not None else ""
    if isinstance(error, MemoryError):
        error.__traceback__ = None  # its frames hold what was to be worked on
        logger.error("no memory for a request method=%s request_id=%s", path, request_id)
        return ResourceExhausted("there is no memory for the request")
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
