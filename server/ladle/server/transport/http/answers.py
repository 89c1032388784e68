"""Answers as HTTP writes them, and those that the transport gives itself."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from ladle.server.transport.http.exchange import Exchange

_BUSY = "the server has as many connections as it takes (--rest_api_max_connections)"
_HEADERS = {"content-type": "application/json"}
_LATER = {**_HEADERS, "retry-after": "1"}


def head(status: int, headers: Mapping[str, str], length: int, *, closes: bool) -> bytes:
    """Return the head of an answer.

    Args:
        status: HTTP's.
        headers: by lower-case name; without `content-length`.
        length: how many bytes the body has.
        closes: whether the connection is closed after it.

    Raises:
        ValueError: A header has a line break in it.
    """
    lines = [_status_line(status), f"date: {_date(int(time.time()))}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name != "connection"]
    if closes:
        lines.append("connection: close")
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    if text.count("\n") != breaks or text.count("\r") != breaks:
        raise ValueError("a header has a line break in it")
    return (text + "\r\n\r\n").encode("latin-1")


def no_request(error: str) -> bytes:
    """Return the answer to what is no request; the connection is closed after it."""
    return _closing(HTTPStatus.BAD_REQUEST, _HEADERS, error)


def too_many() -> bytes:
    """Return the answer to a connection that is one too many; it is closed after it."""
    return _closing(HTTPStatus.SERVICE_UNAVAILABLE, _LATER, _BUSY)


async def answer_busy(exchange: Exchange) -> None:
    """Answer a request on a connection that is one too many."""
    headers = {**_LATER, "connection": "close"}
    exchange.respond(HTTPStatus.SERVICE_UNAVAILABLE, headers, _json(_BUSY))


def answer_failure(exchange: Exchange) -> None:
    """Answer a request that the application has left without an answer."""
    headers = {**_HEADERS, "connection": "close"}
    exchange.respond(HTTPStatus.INTERNAL_SERVER_ERROR, headers, _json("Internal Server Error"))


def _closing(status: HTTPStatus, headers: Mapping[str, str], error: str) -> bytes:
    body = _json(error)
    return head(status, headers, len(body), closes=True) + body


def _json(error: str) -> bytes:
    return json.dumps({"error": error}).encode()


@lru_cache(maxsize=64)
def _status_line(status: int) -> str:
    try:
        return f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}"
    except ValueError:  # 499 is nginx's
        return f"HTTP/1.1 {status} "


@lru_cache(maxsize=2)
def _date(unix_s: int) -> str:
    return formatdate(unix_s, usegmt=True)
