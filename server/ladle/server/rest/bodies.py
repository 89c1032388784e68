"""Reads a request's body, in bounds: its size as sent, inflated, and of all requests together."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ladle.server.limits import Limits
from ladle.server.rest.status_codes import HttpError

# JSON grows when it is parsed: a number of four bytes becomes an object of 24 and pointers to it,
# an empty object of two bytes one of 64.
_PARSED_BYTES_PER_BYTE = 16
_DEFLATED_AT_ONCE = 64 << 10
_INFLATED_AT_ONCE = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


class Room:
    """The place in the byte budget that one request takes; a context manager that gives it back."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken = 0

    def take(self, nbytes: int) -> None:
        """Take place for so many bytes, of whatever they are.

        Raises:
            ResourceExhausted: There is none beside other requests.
        """
        self._limits.budget.take(nbytes, held=self._taken)
        self._taken += nbytes

    def check(self, nbytes: int) -> None:
        """Refuse a body of so many bytes in all, if it is too large.

        Raises:
            HttpError: It is.
        """
        if nbytes > self._limits.max_request_bytes:
            too_large = self._limits.too_large(nbytes)
            error = HttpError(413, too_large.message, {"connection": "close"})
            error.reason = too_large.reason
            raise error

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.budget.give_back(self._taken)


async def read(
    receive: Callable[[], Awaitable[Any]], headers: Mapping[str, str], room: Room
) -> bytes | None:
    """Return the body as it was sent; None if the caller went away before its end.

    Raises:
        HttpError: It is too large, or encoded in an unknown way.
        ResourceExhausted: There is no room for it beside the others.
    """
    announced = headers.get("content-length", "")
    if announced.isdecimal():
        room.check(int(announced))
    # What is compressed is never parsed: it is what comes of it that grows.
    grows = 1 if is_gzip(headers) else _PARSED_BYTES_PER_BYTE
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        piece = message.get("body", b"")
        if piece:
            size += len(piece)
            room.check(size)
            room.take(grows * len(piece))
            pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def is_gzip(headers: Mapping[str, str]) -> bool:
    """Return whether the body is compressed.

    Raises:
        HttpError: It is encoded in another way.
    """
    name = headers.get("content-encoding", "").strip().lower()
    if name in ("gzip", "x-gzip"):
        return True
    if name in ("", "identity"):
        return False
    raise HttpError(415, f"Content-Encoding: expected gzip or identity, got {name!r}")


def inflate(body: bytes, room: Room) -> bytes:
    """Return the content of a gzip file of one member.

    Raises:
        HttpError: The content is too large, or the body is no such file.
        ResourceExhausted: There is no room for the content beside other requests.
    """
    member = zlib.decompressobj(_GZIP)
    pieces: list[bytes] = []
    size = 0

    def step(data: bytes) -> bytes:
        """Inflate some of `data`; return what is left of it."""
        nonlocal size
        if member.eof:
            raise HttpError(400, "the body is not valid gzip: there is more after its end")
        try:
            piece = member.decompress(data, _INFLATED_AT_ONCE)
        except zlib.error as error:
            raise HttpError(400, f"the body is not valid gzip: {error}") from None
        if not data and not piece and not member.eof:
            raise HttpError(400, "the body is not valid gzip: it ends too early")
        size += len(piece)
        room.check(size)
        room.take(_PARSED_BYTES_PER_BYTE * len(piece))
        pieces.append(piece)
        return member.unused_data if member.eof else member.unconsumed_tail

    # In slices: what zlib has not come to yet, it copies at each step.
    for start in range(0, len(body), _DEFLATED_AT_ONCE):
        rest = body[start : start + _DEFLATED_AT_ONCE]
        while rest:
            rest = step(rest)
    while not member.eof:
        step(b"")
    return b"".join(pieces)
