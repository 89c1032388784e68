"""The few parts of protobuf's wire format that large tensors go through without a message object.

A message is written as a list of pieces that are joined once, so that the bytes of a tensor are
copied once on their way out, whatever message they end up in.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Piece: TypeAlias = "bytes | memoryview"
"""What a message is joined from; a view is of single bytes, so that its length is its size."""

_VARINT = 0
_LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """Encode a number from -2**63 to 2**64 - 1; a negative one takes ten bytes."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def size(pieces: Sequence[Piece]) -> int:
    """Return how many bytes the pieces take when joined."""
    return sum(map(len, pieces))


def join(pieces: Sequence[Piece]) -> bytes:
    """Return the pieces as one message: the one copy that each byte takes."""
    return b"".join(pieces)


def varint_field(number: int, value: int) -> bytes:
    """Encode a scalar field of a varint type."""
    return varint(number << 3 | _VARINT) + varint(value)


def bytes_head(number: int, nbytes: int) -> bytes:
    """Encode what comes before the content of a string, bytes, message or packed field."""
    if nbytes < 0x80 and number < 0x10:  # as nearly always: in one step
        return bytes((number << 3 | _LENGTH_DELIMITED, nbytes))
    return varint(number << 3 | _LENGTH_DELIMITED) + varint(nbytes)


def bytes_field(number: int, pieces: Sequence[Piece]) -> list[Piece]:
    """Encode a string, bytes, message or packed field whose content is the joined `pieces`."""
    return [bytes_head(number, size(pieces)), *pieces]


def map_entry_head(number: int, key: str, nbytes: int) -> bytes:
    """Encode what comes before a message of `nbytes` in a map from strings to messages."""
    head = join(bytes_field(1, [key.encode()])) + bytes_head(2, nbytes)
    return bytes_head(number, len(head) + nbytes) + head


def map_entry(number: int, key: str, pieces: Sequence[Piece]) -> list[Piece]:
    """Encode one entry of a map from strings to messages."""
    return [map_entry_head(number, key, size(pieces)), *pieces]
