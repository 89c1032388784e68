"""The one place where exceptions become statuses."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ladle.server.call import Call, Handler
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
        except ServingError as error:
            call.refuse(error.code, bounded(error.message))
        except Exception:
            logger.exception("request failed method=%s", path)
            call.refuse(Code.INTERNAL, "the server failed on this request; its log has the reason")
        else:
            call.answer(response)

    return handle


def bounded(message: str) -> str:
    """Return a status message that is short enough to be sent, and printable."""
    printable = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    encoded = printable.encode(errors="backslashreplace")
    if len(encoded) <= _MAX_MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: _MAX_MESSAGE_BYTES - len(_CUT)].decode(errors="ignore") + _CUT
