"""The parameters of JSON objects, as the messages have them. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ladle.protos.inference_pb import InferParameter
from ladle.server.core.errors import InvalidArgument

BINARY_SIZE = "binary_data_size"
BINARY_DATA = "binary_data"
BINARY_OUTPUT = "binary_data_output"

# Objects that some clients send, and that mean nothing here.
_IGNORED = frozenset({"headers", "content_type"})
_MAX_INT64, _MAX_UINT64 = (1 << 63) - 1, (1 << 64) - 1


def parameters_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an object has under `parameters`; null stands for nothing.

    Raises:
        InvalidArgument: It is no object.
    """
    parameters = value.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidArgument("Unable to parse 'parameters': expected an object")
    return parameters


def put(given: Mapping[str, Any], parameters: Any, *, leave_out: Collection[str] = ()) -> None:
    """Write JSON's parameters into a message's map.

    Raises:
        InvalidArgument: A value is no string, number or boolean.
    """
    for key, value in given.items():
        if key in leave_out or key in _IGNORED or value is None:
            continue
        try:
            parameter = parameters[key]
        except ValueError:
            raise InvalidArgument("Unable to parse 'parameters': expected UTF-8") from None
        _put_one(parameter, key, value)


def flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return a boolean parameter.

    Raises:
        InvalidArgument: It is something else.
    """
    value = parameters.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidArgument(f"Unable to parse '{key}': expected true or false")
    return value


def binary_size(parameters: Mapping[str, Any]) -> int | None:
    """Return how many bytes of an input come after the JSON; None if it has none there.

    Raises:
        InvalidArgument: The size is no integer from 0.
    """
    value = parameters.get(BINARY_SIZE)
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise InvalidArgument("Unable to parse 'binary_data_size': expected an integer from 0")
    return value


def _put_one(parameter: InferParameter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int) and -_MAX_INT64 - 1 <= value <= _MAX_INT64:
        parameter.int64_param = value
    elif isinstance(value, int) and 0 <= value <= _MAX_UINT64:
        parameter.uint64_param = value
    elif isinstance(value, int | float):
        parameter.double_param = value
    elif isinstance(value, str):
        try:
            parameter.string_param = value
        except ValueError:
            raise InvalidArgument(f"parameter '{key[:100]}': expected UTF-8") from None
    else:
        raise InvalidArgument(f"parameter '{key[:100]}': expected a string, a number or a boolean")
