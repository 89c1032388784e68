"""Reads a request's body, in bounds: its size as sent, inflated, and of all requests together."""

from __future__ import annotations

import asyncio
import time
import zlib

from ladle.server.limits import Limits
from ladle.server.rest.encodings import Encodings, content_encoding, window_of
from ladle.server.rest.status_codes import HttpError
from ladle.server.transport.http.exchange import Exchange

# JSON grows when it is parsed: a number of four bytes becomes an object of 24 and pointers to it,
# an empty object of two bytes one of 64.
PARSED_BYTES_PER_BYTE = 16
"""How much place each byte of JSON needs while it is parsed, with the byte itself."""
# A caller who sends less holds place for nothing.
_WINDOW_S = 10.0
_LEAST_BYTES = 4096
# A number of more digits is too large whatever it is.
_MOST_DIGITS = 18
_DEFLATED_AT_ONCE = 64 << 10
_INFLATED_AT_ONCE = 1 << 20


class Reservation:
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

    def take_for_reading(self, nbytes: int, parsed_bytes: int) -> None:
        """Take place for what a body becomes, beside the bytes themselves.

        Args:
            nbytes: how large the body is.
            parsed_bytes: how much of it is JSON. All else is copied into a message.

        Raises:
            ResourceExhausted: There is none beside other requests.
        """
        self.take((PARSED_BYTES_PER_BYTE - 1) * parsed_bytes + nbytes - parsed_bytes)

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

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.budget.give_back(self._taken)


async def read(
    exchange: Exchange,
    reservation: Reservation,
    deadline: float,
    encodings: Encodings | None = None,
) -> bytes | None:
    """Return the body as it was sent; None if the caller went away before its end.

    While a body comes in, it takes the room of what is there. What parsing needs beside it is
    `Reservation.take_for_reading`'s matter.

    Args:
        exchange: the request.
        reservation: the request's.
        deadline: the monotonic time, as the event loop has it, at which the body comes too late.
        encodings: what the route takes.

    Raises:
        HttpError: It is too large, it stopped coming, or it is encoded in an unknown way.
        ResourceExhausted: There is no room for it beside the others.
        TimeoutError: The deadline has passed.
    """
    headers = exchange.headers
    announced = headers.get("content-length", "")
    if announced.isdecimal():
        reservation.check(int(announced.lstrip("0")[:_MOST_DIGITS] or "0"))
    if "content-encoding" in headers:
        content_encoding(headers, (encodings or Encodings()).known)
    pieces: list[bytes] = []
    size = 0
    progress = _Progress(time.monotonic())
    while True:
        piece, is_whole = exchange.take()
        if piece:
            size += len(piece)
            reservation.check(size)
            reservation.take(len(piece))
            pieces.append(piece)
            progress.note(len(piece), time.monotonic())
        if is_whole:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        until = min(deadline, progress.ends)
        try:
            if not await exchange.wait(until):
                return None
        except asyncio.TimeoutError:
            if deadline <= progress.ends:
                raise
            raise _stopped(size) from None


class _Progress:
    """Whether a body comes in fast enough: `_LEAST_BYTES` in each window of `_WINDOW_S`."""

    def __init__(self, now: float) -> None:
        self.ends = now + _WINDOW_S
        """When the window ends, in seconds of the monotonic clock."""
        self._bytes = 0

    def note(self, nbytes: int, now: float) -> None:
        """Count what has come; with enough of it another window begins."""
        self._bytes += nbytes
        if self._bytes >= _LEAST_BYTES:
            self._bytes = 0
            self.ends = now + _WINDOW_S


def _stopped(size: int) -> HttpError:
    return HttpError(
        408,
        f"the body stopped coming after {size} bytes: expected {_LEAST_BYTES} bytes more "
        f"within {_WINDOW_S:g} s",
        {"connection": "close"},
    )


def inflate(body: bytes, encoding: str, reservation: Reservation) -> bytes:
    """Return the content of a compressed body: one gzip member, or one deflate stream.

    Args:
        body: as it was sent.
        encoding: what it is compressed to.
        reservation: the request's; takes place for the content while it comes.

    Raises:
        HttpError: The content is too large, or the body is not compressed like that.
        ResourceExhausted: There is no room for the content beside other requests.
    """
    member = zlib.decompressobj(window_of(encoding, body))
    pieces: list[bytes] = []
    size = 0

    def step(data: bytes) -> bytes:
        """Inflate some of `data`; return what is left of it."""
        nonlocal size
        if member.eof:
            raise HttpError(400, f"the body is not valid {encoding}: there is more after its end")
        try:
            piece = member.decompress(data, _INFLATED_AT_ONCE)
        except zlib.error as error:
            raise HttpError(400, f"the body is not valid {encoding}: {error}") from None
        if not data and not piece and not member.eof:
            raise HttpError(400, f"the body is not valid {encoding}: it ends too early")
        size += len(piece)
        reservation.check(size)
        reservation.take(len(piece))
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
