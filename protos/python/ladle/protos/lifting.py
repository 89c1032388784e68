"""Large tensors, read out of a PredictRequest without copying them.

protobuf copies the bytes of a message into a message object, and copies them again where Python
reads them. Lifting goes over the outermost layers by itself, takes the `tensor_content` of large
inputs as views of the request's own bytes, and leaves protobuf a small rest. Where anything is not
as writers write it, protobuf gets the whole: it decides what is legal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ladle.protos import wire

LEAST_BYTES = 32 << 10
"""Smaller inputs are left in: copying them is cheaper."""

_INPUTS = 2
_KEY = 1
_VALUE = 2
_CONTENT = 4


class _Unusual(Exception):
    """Something that protobuf should look at."""


def lift(request: bytes, least_bytes: int = LEAST_BYTES) -> tuple[bytes, Mapping[str, memoryview]]:
    """Return a serialized PredictRequest without its large tensor contents, and those by input.

    The views keep `request` alive. What comes back is `request` itself, and nothing, where no
    input is as large as `least_bytes`, or the bytes are unusual.
    """
    if len(request) < least_bytes:
        return request, {}
    view = memoryview(request)
    pieces: list[wire.Piece] = []
    contents: dict[str, memoryview] = {}
    keys: set[bytes] = set()
    try:
        for number, start, content, stop in _fields(view, 0, len(view)):
            if number != _INPUTS:
                pieces.append(view[start:stop])
                continue
            key, entry, tensor = _entry(view, content, stop)
            if key in keys:
                return request, {}
            keys.add(key)
            if tensor is None or len(tensor) < least_bytes:
                pieces.append(view[start:stop])
            else:
                contents[key.decode()] = tensor
                pieces += wire.bytes_field(_INPUTS, entry)
    except (_Unusual, UnicodeDecodeError):
        return request, {}
    return (wire.join(pieces), contents) if contents else (request, {})


def _entry(
    view: memoryview, start: int, stop: int
) -> tuple[bytes, list[wire.Piece], memoryview | None]:
    """Return a map entry's key, its pieces without the tensor's content, and that content."""
    key: bytes | None = None
    value: tuple[int, int] | None = None
    for number, _, content, end in _fields(view, start, stop):
        if number == _KEY and key is None:
            key = bytes(view[content:end])
        elif number == _VALUE and value is None:
            value = content, end
        else:
            raise _Unusual
    if key is None or value is None:
        raise _Unusual
    rest: list[wire.Piece] = []
    tensor: memoryview | None = None
    for number, field, content, end in _fields(view, *value):
        if number != _CONTENT:
            rest.append(view[field:end])
        elif tensor is None:
            tensor = view[content:end]
        else:
            raise _Unusual
    return key, [*wire.bytes_field(_KEY, [key]), *wire.bytes_field(_VALUE, rest)], tensor


def _fields(view: memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field: its number, and where it, its content and what follows it start.

    A field of no length gets number 0: it can only be passed on.
    """
    position = start
    while position < stop:
        tag, content = _varint(view, position, stop)
        wire_type = tag & 7
        number = tag >> 3
        if not number:
            raise _Unusual
        if wire_type == 2:
            length, content = _varint(view, content, stop)
            end = content + length
        elif wire_type == 0:
            number = 0
            end = content
            while end < stop and view[end] & 0x80:
                end += 1
            end += 1
        elif wire_type in (1, 5):
            number = 0
            end = content + (8 if wire_type == 1 else 4)
        else:
            raise _Unusual
        if end > stop:
            raise _Unusual
        yield number, position, content, end
        position = end


def _varint(view: memoryview, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= stop:
            break
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift and not byte:
                break  # longer than it need be
            return value, position
    raise _Unusual
