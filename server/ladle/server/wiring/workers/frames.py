"""What supervisor and workers write to each other: JSON objects, each behind its length."""

from __future__ import annotations

import json
import struct
from typing import Any, TypeAlias

Message: TypeAlias = "dict[str, Any]"
"""A JSON object. Its `op` says what it is about."""

MAX_BYTES = 64 << 20
"""The largest message, as JSON."""

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """What came is no message; nothing that follows it can be read."""


def encode(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        FrameError: It is too large.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_BYTES:
        raise FrameError(f"expected a message of at most {MAX_BYTES} bytes, got {len(body)}")
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Makes messages of bytes as they come. Not thread-safe."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take the next bytes, and return the messages that are whole by now.

        Raises:
            FrameError: The bytes are no message, or that of one that is too large.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_BYTES:
                raise FrameError(f"expected a message of at most {MAX_BYTES} bytes, got {length}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(_parsed(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages


def _parsed(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError:
        raise FrameError("expected JSON, got other bytes") from None
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise FrameError("expected a JSON object with an op, got none")
    return message
