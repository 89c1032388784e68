"""The body of an inference request as a ModelInferRequest. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ladle.protos import wire
from ladle.protos.datatypes import BY_NAME, to_raw
from ladle.protos.inference_pb import ModelInferRequest
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json.text import Trailing, parse_whole
from ladle.server.rest.open_inference.parameters import (
    BINARY_DATA,
    BINARY_OUTPUT,
    BINARY_SIZE,
    binary_size,
    flag,
    parameters_of,
    put,
)
from ladle.server.rest.open_inference.values import to_array

JSON_LENGTH = "inference-header-content-length"
"""The header that says how many bytes of a body are JSON: binary tensors come after it."""

_ID = 3
_RAW_INPUTS = 7
_MOST_DIGITS = 18  # a number of more is too large whatever it is


class ParsedBody(NamedTuple):
    """The JSON of a request. It can be pickled."""

    message: bytes
    """The ModelInferRequest without raw contents."""
    has_id: bool
    inputs: Sequence[bytes | int]
    """Of each input its raw bytes, or how many of them come after the JSON."""
    names: Sequence[str]
    """Of the inputs."""
    binary: bool
    """Whether outputs are answered as binary tensors that are not in `outputs`."""
    outputs: Mapping[str, bool]
    """Whether each output that says so is answered as a binary tensor."""


def json_length(headers: Mapping[str, str], nbytes: int) -> int:
    """Return how many bytes of a body of `nbytes` are JSON.

    Raises:
        InvalidArgument: The header is no number, or past the body.
    """
    given = headers.get(JSON_LENGTH)
    if given is None:
        return nbytes
    digits = given.strip().removeprefix("-")
    if not (digits.isdecimal() and digits.isascii()):
        raise InvalidArgument(
            f"Unable to parse Inference-Header-Content-Length, got: {given[:100]}"
        )
    is_negative = given.strip().startswith("-")
    if len(digits) > _MOST_DIGITS or int(digits) > nbytes or is_negative:
        raise InvalidArgument(
            f"inference header size should be in range (0, {nbytes}), got: {given.strip()[:100]}"
        )
    return int(digits)


def parsed_bytes(headers: Mapping[str, str], nbytes: int) -> int:
    """Return how many bytes of a body will be parsed as JSON; all if the header is wrong."""
    try:
        return json_length(headers, nbytes)
    except InvalidArgument:
        return nbytes


def read(text: bytes, model: str, version: str) -> ParsedBody:
    """Return what the JSON of a request says.

    Args:
        text: the JSON.
        model: what the URL calls the model.
        version: the version in the URL; empty if there is none.

    Raises:
        InvalidArgument: It is no JSON, or not of the protocol's form.
    """
    body = _parsed(text)
    message = ModelInferRequest(model_name=model, model_version=version)
    given_id = body.get("id")
    if given_id is not None and not isinstance(given_id, str):
        raise InvalidArgument("Unable to parse 'id': expected a string")
    if given_id is not None:
        message.id = _utf8(given_id, "id")
    parameters = parameters_of(body)
    put(parameters, message.parameters, leave_out=(BINARY_OUTPUT,))
    inputs: list[bytes | int] = []
    for given in _objects(body, "inputs"):
        inputs.append(_input(given, message))
    outputs: dict[str, bool] = {}
    binary = flag(parameters, BINARY_OUTPUT, default=False)
    for given in _objects(body, "outputs") if body.get("outputs") is not None else ():
        name = _name(given)
        wanted = message.outputs.add(name=name)
        of_output = parameters_of(given)
        outputs[name] = flag(of_output, BINARY_DATA, default=binary)
        put(of_output, wanted.parameters, leave_out=(BINARY_DATA,))
    names = [tensor.name for tensor in message.inputs]
    has_id = given_id is not None
    return ParsedBody(message.SerializeToString(), has_id, inputs, names, binary, outputs)


def with_tensors(
    parsed: ParsedBody, tensors: memoryview, model: str, new_id: Callable[[], str]
) -> bytes:
    """Return the whole ModelInferRequest.

    Args:
        parsed: the JSON.
        tensors: what comes after it.
        model: what the URL calls the model.
        new_id: returns the id of a request that brings none.

    Raises:
        InvalidArgument: The sizes of the inputs are not those of the body.
    """
    pieces: list[wire.Piece] = [parsed.message]
    if not parsed.has_id:
        pieces += wire.bytes_field(_ID, [new_id().encode()])
    for name, given in zip(parsed.names, parsed.inputs, strict=True):
        if isinstance(given, bytes):
            pieces += wire.bytes_field(_RAW_INPUTS, [given])
            continue
        if given > len(tensors):
            raise InvalidArgument(
                f"unexpected size for input '{name}', expecting {given - len(tensors)} additional "
                f"bytes for model '{model}'"
            )
        pieces += wire.bytes_field(_RAW_INPUTS, [tensors[:given]])
        tensors = tensors[given:]
    if tensors:
        raise InvalidArgument(f"unexpected additional input data for model '{model}'")
    return wire.join(pieces)


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        body = parse_whole(text)
    except Trailing as error:
        raise InvalidArgument(
            f"failed to parse the request JSON buffer: {error.message}; "
            "is Inference-Header-Content-Length missing?"
        ) from None
    except InvalidArgument as error:
        raise InvalidArgument(f"failed to parse the request JSON buffer: {error.message}") from None
    if not isinstance(body, dict):
        raise InvalidArgument("failed to parse the request JSON buffer: expected an object")
    return body


def _objects(body: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidArgument(f"Unable to parse '{key}': expected a list of objects")
    return value


def _input(given: Mapping[str, Any], message: ModelInferRequest) -> bytes | int:
    """Add an input to the message, and return its bytes, or how many come after the JSON."""
    name = _name(given)
    datatype = given.get("datatype")
    if not isinstance(datatype, str):
        raise InvalidArgument("Unable to parse 'datatype': expected a string")
    shape = _shape(given.get("shape"))
    tensor = message.inputs.add(name=name, datatype=_utf8(datatype, "datatype"), shape=shape)
    parameters = parameters_of(given)
    size = binary_size(parameters)
    put(
        {key: value for key, value in parameters.items() if key.startswith("shared_memory_")},
        tensor.parameters,
    )
    data = given.get("data")
    fields = [
        f"'{key}'" for key, value in (("data", data), (BINARY_SIZE, size)) if value is not None
    ]
    if len(fields) != 1 and not (0 in shape and not fields) and not tensor.parameters:
        found = f"But set {' '.join(fields)}" if fields else "But no field is set"
        raise InvalidArgument(
            "Input must set only one of the following fields: 'data', 'binary_data_size' in "
            f"'parameters'. {found}"
        )
    if size is not None:
        return size
    known = BY_NAME.get(datatype)
    if known is None or data is None:
        return b""  # ModelInfer has the words for it
    return bytes(to_raw(to_array(data, known, shape, name)))


def _name(given: Mapping[str, Any]) -> str:
    name = given.get("name")
    if not isinstance(name, str):
        raise InvalidArgument("Unable to parse 'name': expected a string")
    return _utf8(name, "name")


def _shape(value: Any) -> tuple[int, ...]:
    limits = range(-(1 << 63), 1 << 63)
    if not isinstance(value, list) or any(
        type(size) is not int or size not in limits for size in value
    ):
        raise InvalidArgument("Unable to parse 'shape': expected a list of integers")
    return tuple(value)


def _utf8(text: str, key: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"Unable to parse '{key}': expected UTF-8") from None
    return text
