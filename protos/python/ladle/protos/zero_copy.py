"""Extracts large tensor contents from a PredictRequest without a copy.

protobuf copies a message's bytes into a message object, and copies them again when Python reads
them. `extract_tensor_contents` parses the outermost layers itself. It returns the `tensor_content`
of large inputs as views of the request's bytes, and the rest of the request as a small message. If
the bytes are not as protobuf's writers write them, protobuf gets the whole message and decides what
is legal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ladle.protos import wire

LEAST_BYTES = 128 << 10
"""Smaller contents stay in the message, because a copy of them is cheaper."""

MOST_FIELDS = 1 << 14
"""A message of more fields is left to protobuf, which reads millions a hundred times as fast."""

_INPUTS = 2
_KEY = 1
_VALUE = 2
_CONTENT = 4


class _Unusual(Exception):
    """The bytes need protobuf's own parser."""


def extract_tensor_contents(
    request: bytes, least_bytes: int = LEAST_BYTES
) -> tuple[bytes, Mapping[str, memoryview]]:
    """Return a serialized PredictRequest without large tensor contents, and the contents by input.

    The views keep `request` alive. If no content has `least_bytes`, or the bytes are unusual, the
    result is `request` itself and an empty mapping.
    """
    if len(request) < least_bytes:
        return request, {}
    view = memoryview(request)
    pieces: list[wire.Piece] = []
    contents: dict[str, memoryview] = {}
    keys: set[bytes] = set()
    kept_from = 0  # fields that stay are joined in few pieces
    steps = iter(range(MOST_FIELDS))
    try:
        for number, start, content, stop in _fields(request, 0, len(request), steps):
            if number != _INPUTS:
                continue
            key, value, value_stop = _entry(request, content, stop, steps)
            if key in keys:
                return request, {}
            keys.add(key)
            at, tensor, tensor_stop = _content(request, value, value_stop, steps)
            if tensor_stop - tensor >= max(least_bytes, 1):
                contents[key.decode()] = view[tensor:tensor_stop]
                rest = request[value:at] + request[tensor_stop:value_stop]
                entry = wire.bytes_head(_KEY, len(key)) + key + wire.bytes_head(_VALUE, len(rest))
                head = wire.bytes_head(_INPUTS, len(entry) + len(rest))
                pieces += (view[kept_from:start], head, entry, rest)
                kept_from = stop
    except (_Unusual, UnicodeDecodeError):
        return request, {}
    return (wire.join([*pieces, view[kept_from:]]), contents) if contents else (request, {})


def extract_repeated_bytes(
    message: bytes, number: int, least_bytes: int = LEAST_BYTES
) -> tuple[bytes, list[memoryview]]:
    """Return a serialized message without a top-level `repeated bytes` field, and its values.

    The values come in their order, as views that keep `message` alive. If the message has fewer
    than `least_bytes`, or the bytes are unusual, the result is `message` itself and no values.
    """
    if len(message) < least_bytes:
        return message, []
    view = memoryview(message)
    pieces: list[wire.Piece] = []
    values: list[memoryview] = []
    kept_from = 0
    steps = iter(range(MOST_FIELDS))
    try:
        for found, start, content, stop in _fields(message, 0, len(message), steps):
            if found == number:
                values.append(view[content:stop])
                if kept_from < start:
                    pieces.append(view[kept_from:start])
                kept_from = stop
    except _Unusual:
        return message, []
    return (wire.join([*pieces, view[kept_from:]]), values) if values else (message, [])


def _entry(request: bytes, start: int, stop: int, steps: Iterator[int]) -> tuple[bytes, int, int]:
    """Return the key of a map entry, and the start and end of its value."""
    key: bytes | None = None
    value: tuple[int, int] | None = None
    for number, _, content, end in _fields(request, start, stop, steps):
        if number == _KEY and key is None:
            key = request[content:end]
        elif number == _VALUE and value is None:
            value = content, end
        else:
            raise _Unusual
    if key is None or value is None:
        raise _Unusual
    return key, *value


def _content(request: bytes, start: int, stop: int, steps: Iterator[int]) -> tuple[int, int, int]:
    """Return where the field `tensor_content` starts, and where its content starts and stops.

    A tensor without the field gives its end three times.
    """
    found: tuple[int, int, int] | None = None
    for number, field, content, end in _fields(request, start, stop, steps):
        if number == _CONTENT:
            if found is not None:
                raise _Unusual
            found = field, content, end
    return found or (stop, stop, stop)


def _fields(
    data: bytes, position: int, stop: int, steps: Iterator[int]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the number of each field, and where the field, its content and the next field start.

    A field that is not length-delimited gets number 0; the caller keeps it as it is. Each field
    takes one of `steps`; where there is none, the bytes are unusual.
    """
    while position < stop:
        if next(steps, None) is None:
            raise _Unusual
        tag = data[position]
        content = position + 1
        if tag >= 0x80:
            tag, content = _varint(data, position, stop)
        wire_type = tag & 7
        number = tag >> 3
        if not number:
            raise _Unusual
        if wire_type == 2:
            length, content = _varint(data, content, stop)
            end = content + length
        elif wire_type == 0:
            number = 0
            end = content
            while end < stop and data[end] & 0x80:
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


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        if position >= stop:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift and not byte:
                break  # not the shortest encoding
            return value, position
    raise _Unusual
