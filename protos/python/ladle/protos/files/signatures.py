"""The signatures of a SavedModel, read without TensorFlow and without the graph beside them."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from ladle.protos.files.framing import Bytes, CutShortError, Field, FileBytes, fields
from ladle.protos.files.regular_file import open_regular

_NAME = "saved_model.pb"
# Fields of SavedModel, MetaGraphDef, MetaInfoDef, and of an entry of a map.
_META_GRAPHS = 2
_META_INFO = 1
_SIGNATURES = 5
_TAGS = 4
_KEY, _VALUE = 1, 2

_MOST_FIELDS = 100_000
_MOST_BYTES = 16 << 20


def read_signatures(folder: Path, tags: Collection[str]) -> dict[str, bytes] | None:
    """Return the serialized `tensorflow.SignatureDef` of each signature, by name.

    None where they can't be told: the folder holds another form of a model, no graph with just
    these tags, or what is too large or cut short.

    Args:
        folder: holds saved_model.pb.
        tags: those of the graph.
    """
    try:
        with open_regular(folder / _NAME) as file:
            return _signatures(file, frozenset(tags))
    except (OSError, ValueError, CutShortError):
        return None


def _signatures(file: BinaryIO, tags: frozenset[str]) -> dict[str, bytes] | None:
    data = FileBytes(file)
    for graph in _bounded(data, 0, file.seek(0, os.SEEK_END)):
        if graph.number != _META_GRAPHS:
            continue
        found: dict[str, bytes] = {}
        has: set[str] = set()
        room = _MOST_BYTES
        for field in _bounded(data, graph.start, graph.end):
            if field.number not in (_META_INFO, _SIGNATURES):
                continue
            room -= field.end - field.start
            if room < 0:
                raise ValueError(f"{_NAME}: signatures of more than {_MOST_BYTES} bytes")
            message = _read(file, field)
            if field.number == _META_INFO:
                has.update(part.decode() for part in _parts(message, _TAGS))
            else:
                name = b"".join(_parts(message, _KEY)[-1:]).decode()
                found[name] = b"".join(_parts(message, _VALUE)[-1:])
        if has == tags:
            return found
    return None


def _bounded(data: Bytes, start: int, end: int) -> list[Field]:
    found = []
    for field in fields(data, start, end, _NAME):
        if field.wire_type == 2:  # all that is looked for is
            found.append(field)
        if len(found) > _MOST_FIELDS:
            raise ValueError(f"{_NAME}: more than {_MOST_FIELDS} fields")
    return found


def _read(file: BinaryIO, field: Field) -> bytes:
    file.seek(field.start)
    message = file.read(field.end - field.start)
    if len(message) < field.end - field.start:
        raise CutShortError(f"{_NAME} is cut short")
    return message


def _parts(message: bytes, number: int) -> list[bytes]:
    found = fields(message, 0, len(message), _NAME)
    return [message[f.start : f.end] for f in found if f.number == number and f.wire_type == 2]
