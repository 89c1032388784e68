"""The framing of serialized messages: where each field lies, without parsing what is in it.

A graph may take gigabytes. What lies at its top is found by a few reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Protocol


class Bytes(Protocol):
    """Bytes by position."""

    def __getitem__(self, index: int, /) -> int: ...


class CutShortError(Exception):
    """The bytes are no whole message; the text names the file."""


class FileBytes:
    """A file's bytes, as `Bytes`. Not a map of it: that dies if the file is cut meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._start = 0
        self._window = b""

    def __getitem__(self, index: int, /) -> int:
        if not 0 <= index - self._start < len(self._window):
            self._file.seek(index)
            self._start, self._window = index, self._file.read(256)
            if not self._window:
                raise CutShortError("saved_model.pb is cut short")
        return self._window[index - self._start]


class Field(NamedTuple):
    """One field of a message."""

    number: int
    wire_type: int
    start: int
    """Where its value begins; of a varint, the value itself is in `value`."""
    end: int
    value: int = 0


def fields(data: Bytes, at: int, end: int, name: str) -> Iterator[Field]:
    """Yield the fields of the message in `data[at:end]`, which must end just where one does.

    Raises:
        CutShortError: It does not, or is no message; `name` is what the error calls it.
    """
    while at < end:
        tag, at = varint(data, at, end, name)
        number, wire_type = tag >> 3, tag & 7
        value, start = 0, at
        if wire_type == 0:
            value, at = varint(data, at, end, name)
        elif wire_type == 2:
            length, start = varint(data, at, end, name)
            at = start + length
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            raise CutShortError(f"{name} can't be parsed")
        if number == 0:
            raise CutShortError(f"{name} can't be parsed")
        if at > end:
            raise CutShortError(f"{name} is cut short")
        yield Field(number, wire_type, start, at, value)


def varint(data: Bytes, at: int, end: int, name: str) -> tuple[int, int]:
    """Return the number at a position, and where it ends.

    Raises:
        CutShortError: There is none.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise CutShortError(f"{name} is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise CutShortError(f"{name} can't be parsed")
