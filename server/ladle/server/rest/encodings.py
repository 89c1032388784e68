"""How bodies are encoded: what a request's may be, and what an answer is compressed to."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from ladle.server.rest.status_codes import HttpError

GZIP = "gzip"
DEFLATE = "deflate"

# Smaller answers fit into a packet or three as they are.
_LEAST_COMPRESSED_BYTES = 4 << 10
_ZLIB = 8  # what the low half of the first byte of a zlib stream is

Choose: TypeAlias = "Callable[[str, str], str]"
"""Returns what to compress an answer to, by `Accept-Encoding` and the answer's content type.

Empty: to nothing.
"""


def gzip_if_accepted(accepted: str, _content_type: str) -> str:
    """Return gzip for callers who take it."""
    return GZIP if accepts(accepted, GZIP) else ""


def never(_accepted: str, _content_type: str) -> str:
    """Leave the answer as it is."""
    return ""


@dataclass(frozen=True)
class Encodings:
    """What a route's bodies may be, and what becomes of its answers."""

    known: Collection[str] = (GZIP,)
    """What a request's body may be compressed to."""
    choose: Choose = gzip_if_accepted
    parsed_bytes: Callable[[Mapping[str, str], int], int] = lambda _, nbytes: nbytes
    """Returns how many bytes of a body are JSON, by its headers and its size."""


def content_encoding(headers: Mapping[str, str], known: Collection[str]) -> str:
    """Return what a body is compressed to; empty if it is not.

    Raises:
        HttpError: It is encoded in another way.
    """
    name = headers.get("content-encoding", "").strip().lower().removeprefix("x-")
    if name in ("", "identity"):
        return ""
    if name in known:
        return name
    expected = ", ".join(sorted(known))
    raise HttpError(
        415,
        f"Content-Encoding: expected {expected} or identity, got {name[:100]!r}",
        {"accept-encoding": expected},
    )


def accepts(accepted: str, encoding: str) -> bool:
    """Whether an `Accept-Encoding` has room for an encoding; `*` stands for those not named."""
    others = False
    for part in accepted.split(","):
        name, _, parameters = (text.strip().lower() for text in part.partition(";"))
        if name not in (encoding, "*"):
            continue
        with suppress(ValueError):
            is_taken = not parameters or float(parameters.removeprefix("q=")) > 0
            if name == encoding:
                return is_taken
            others = is_taken
    return others


def is_worthwhile(nbytes: int) -> bool:
    """Whether an answer of so many bytes is compressed at all."""
    return nbytes >= _LEAST_COMPRESSED_BYTES


def compress(body: bytes, encoding: str) -> bytes:
    """Return a body compressed; at level 1, because the caller waits for it."""
    if encoding == DEFLATE:
        return zlib.compress(body, 1)
    return gzip.compress(body, compresslevel=1, mtime=0)


def window_of(encoding: str, body: bytes) -> int:
    """Return what zlib calls the format of a compressed body.

    What HTTP calls deflate is a zlib stream; some callers send the bare stream inside one.
    """
    if encoding == GZIP:
        return 16 + zlib.MAX_WBITS
    head = body[:2]
    is_zlib = len(head) == 2 and head[0] & 0xF == _ZLIB and int.from_bytes(head, "big") % 31 == 0
    return zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS
