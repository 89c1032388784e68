"""Messages as Triton writes them in JSON. Pure functions."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message


def as_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON's own types.

    Names are those of the .proto files, enums are names, numbers of 64 bits are numbers, and
    default values are written out. What has presence is left out where it is not set.
    """
    shown: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_map(field):
            shown[field.name] = {key: _one(field, item) for key, item in value.items()}
        elif field.is_repeated:
            shown[field.name] = [_one(field, item) for item in value]
        elif not field.has_presence or message.HasField(field.name):
            shown[field.name] = _one(field, value)
    return shown


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return bool(kind is not None and kind.GetOptions().map_entry)


def _one(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
