"""What callers may do to a server that means it harm: the frames of one connection each.

The tests send each kind to a transport, and `benchmarks/hostile.py` beside good callers.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass

from server.transport.native.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    frame,
    headers,
    literal,
    message,
    setting,
    window_update,
)

_LARGEST_WINDOW = (1 << 31) - 1
_MANY = 20_000
_UNKNOWN = 0xFE


@dataclass(frozen=True)
class Harm:
    """What one caller does on a connection."""

    frames: bytes
    """What it sends after the preface."""
    ends: bool = False
    """Whether the server ends the connection for it."""
    held: bool = False
    """Whether the harm is in keeping the connection open."""
    half_closed: bool = False
    """Whether the caller says then that it sends nothing more."""


def harms(path: str, request: bytes, nbytes: int) -> dict[str, Harm]:
    """Return each kind of harm by its name.

    Args:
        path: of a unary method.
        request: a message that the method answers.
        nbytes: the size of a message that takes all room that there is.
    """

    def begun(stream: int, **more: str) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, headers(path, **more))

    def called(stream: int, flags: int = END_STREAM) -> bytes:
        return begun(stream) + frame(DATA, flags, stream, message(request))

    def bomb(encoding: str, packed: bytes) -> bytes:
        sent = b"\1" + struct.pack(">I", len(packed)) + packed
        pieces = [sent[at : at + 16_000] for at in range(0, len(sent), 16_000)]
        return begun(1, grpc_encoding=encoding) + b"".join(frame(DATA, 0, 1, p) for p in pieces)

    zeros = bytes(32 << 20)
    table = b"\x40" + literal("x", "y" * 100)[1:] + b"\xbe" * 16_000
    reset = struct.pack(">I", 8)
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, literal("x", "y"))
    return {
        # Frames that cost more to answer than to send.
        "SETTINGS": Harm(frame(SETTINGS, 0, 0) * _MANY, ends=True),
        "SETTINGS that change windows": Harm(
            b"".join(map(begun, streams(100)))
            + (setting(INITIAL_WINDOW_SIZE, 1) + setting(INITIAL_WINDOW_SIZE, 1 << 30)) * 2000,
            ends=True,
        ),
        "SETTINGS that change tables": Harm(
            (setting(HEADER_TABLE_SIZE, 0) + setting(HEADER_TABLE_SIZE, 1 << 30)) * 5000,
            ends=True,
        ),
        "PING": Harm(frame(PING, 0, 0, b"12345678") * _MANY, ends=True),
        "PRIORITY": Harm(
            b"".join(
                frame(PRIORITY, 0, number, struct.pack(">IB", number % 199 + 1, 255))
                for number in streams(_MANY)
            ),
            ends=True,
        ),
        "WINDOW_UPDATE": Harm(window_update(0, 1) * _MANY, ends=True),
        "unknown frames": Harm(frame(_UNKNOWN, 255, 3, b"x" * 100) * _MANY, ends=True),
        # Streams that come and go.
        "rapid resets": Harm(
            b"".join(begun(n) + frame(RST_STREAM, 0, n, reset) for n in streams(2000)),
            ends=True,
        ),
        "resets provoked": Harm(
            b"".join(begun(n) + window_update(n, _LARGEST_WINDOW) for n in streams(2000)), ends=True
        ),
        "GOAWAY amid calls": Harm(
            b"".join(map(called, streams(5))) + frame(GOAWAY, 0, 0, bytes(8)) * 1000,
            ends=True,
        ),
        # Headers.
        "CONTINUATION": Harm(
            frame(HEADERS, 0, 1, headers(path))
            + frame(CONTINUATION, 0, 1, b"\0\x01a\x40" + b"x" * 64) * 2000,
            ends=True,
        ),
        "empty CONTINUATION": Harm(
            frame(HEADERS, 0, 1, headers(path)) + frame(CONTINUATION, 0, 1) * _MANY, ends=True
        ),
        "HPACK bombs": Harm(frame(HEADERS, END_HEADERS, 1, headers(path) + table), ends=True),
        "empty headers": Harm(
            b"".join(
                frame(HEADERS, END_HEADERS, n, headers(path) + b"\0\0\0" * 5000)
                for n in streams(20)
            ),
            ends=True,
        ),
        "long paths": Harm(
            b"".join(
                frame(HEADERS, END_HEADERS, n, headers("/" + "x" * 60_000)) for n in streams(50)
            )
        ),
        "trailers": Harm(
            begun(1) + frame(DATA, 0, 1, message(request)) + trailers * 2,  # once is allowed
            ends=True,
        ),
        "PUSH_PROMISE": Harm(
            frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4) + headers(path)), ends=True
        ),
        # Bodies.
        "empty DATA": Harm(begun(1) + frame(DATA, 0, 1) * _MANY, ends=True),
        "padding": Harm(begun(1) + frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * 4000, ends=True),
        "a byte at a time": Harm(
            begun(1) + frame(DATA, 0, 1, message(bytes(8000))[:5]) + frame(DATA, 0, 1, b"\0") * 7999
        ),
        "gzip bombs": Harm(bomb("gzip", gzip.compress(zeros))),
        "deflate bombs": Harm(bomb("deflate", zlib.compress(zeros))),
        # Windows.
        "windows that overflow": Harm(
            begun(1)
            + window_update(1, _LARGEST_WINDOW) * 2
            + window_update(0, _LARGEST_WINDOW) * 2,
            ends=True,
        ),
        "half-closed connections": Harm(
            b"".join(map(called, streams(5))) + begun(11), half_closed=True, ends=True
        ),
        # What is never finished.
        "silent connections": Harm(b"", held=True),
        "silent calls": Harm(b"".join(map(begun, streams(4))), held=True),
        "calls that never end": Harm(b"".join(called(n, 0) for n in streams(4)), held=True),
        "stalled uploads": Harm(
            begun(1) + frame(DATA, 0, 1, message(bytes(8000))[:4000]), held=True
        ),
        "uploads that take all room": Harm(
            begun(1) + frame(DATA, 0, 1, b"\0" + struct.pack(">I", nbytes)), held=True
        ),
        "unread answers": Harm(
            setting(INITIAL_WINDOW_SIZE, 0) + b"".join(map(called, streams(4))), held=True
        ),
        "unread connections": Harm(
            setting(INITIAL_WINDOW_SIZE, _LARGEST_WINDOW)
            + window_update(0, _LARGEST_WINDOW - 65_535)
            + b"".join(map(called, streams(200))),
            held=True,
        ),
    }


def streams(count: int) -> range:
    """The numbers of so many streams of a caller."""
    return range(1, 2 * count, 2)
