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
    kept_from = 0  # what stays is kept in as few pieces as there can be: fields may be countless
    try:
        for number, start, content, stop in _fields(view, 0, len(view)):
            if number != _INPUTS:
                continue
            key, tensor, before, after = _entry(view, content, stop)
            if key in keys:
                return request, {}
            keys.add(key)
            if tensor is not None and len(tensor) >= least_bytes:
                contents[key.decode()] = tensor
                rest = [*wire.bytes_field(_KEY, [key]), *wire.bytes_field(_VALUE, [before, after])]
                pieces += [view[kept_from:start], *wire.bytes_field(_INPUTS, rest)]
                kept_from = stop
    except (_Unusual, UnicodeDecodeError):
        return request, {}
    return (wire.join([*pieces, view[kept_from:]]), contents) if contents else (request, {})


def _entry(
    view: memoryview, start: int, stop: int
) -> tuple[bytes, memoryview | None, memoryview, memoryview]:
    """Return a map entry's key, its tensor's content, and the tensor's bytes before and after."""
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
    tensor: memoryview | None = None
    before = view[value[0] : value[1]]
    after = view[value[1] : value[1]]
    for number, field, content, end in _fields(view, *value):
        if number == _CONTENT:
            if tensor is not None:
                raise _Unusual
            tensor = view[content:end]
            before, after = view[value[0] : field], view[end : value[1]]
    return key, tensor, before, after


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
