"""Predict's JSON to and from its messages. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

from ladle.protos import tensors, wire
from ladle.protos.serving_pb import ModelSpec, PredictResponse
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import DEFAULT_SIGNATURE, Signature
from ladle.server.rest.json.tensors import Json, is_b64, rows_of, to_array, to_json
from ladle.server.rest.json.text import parse

# What a message shows of the names that a caller sent.
_MOST_NAMES = 20
_LONGEST_NAME = 100


class PredictBody(NamedTuple):
    """The parts of a body."""

    signature_name: str
    by_row: bool
    """Whether `value` is what `instances` holds, and not `inputs`."""
    value: Json


class PredictMessage(NamedTuple):
    """A body as a message."""

    signature_name: str
    """The signature that it names, or the default one."""
    by_row: bool
    """Whether the caller wrote `instances`, and not `inputs`."""
    serialized: bytes | None
    """The PredictRequest; None where there is no such signature."""


def read(text: bytes, signatures: Mapping[str, Signature], spec: ModelSpec) -> PredictMessage:
    """Return the message of a body.

    Args:
        text: the body.
        signatures: those of the model, by name.
        spec: the model and version that its URL names.

    Raises:
        ServingError: The body is no JSON, or does not fit the signature.
    """
    body = read_body(parse(text))
    name = body.signature_name or DEFAULT_SIGNATURE
    signature = signatures.get(name)
    message = to_request(body, signature, spec) if signature else None
    return PredictMessage(name, body.by_row, message)


def read_body(body: Json) -> PredictBody:
    """Return the parts of a body that was parsed.

    Raises:
        InvalidArgument: It is no object, or its keys are not as they should be.
    """
    signature_name = read_signature_name(body)
    by_row, by_column = "instances" in body, "inputs" in body
    if by_row and by_column:
        raise InvalidArgument('JSON body: expected "instances" or "inputs", got both')
    if not by_row and not by_column:
        raise InvalidArgument('Missing "inputs" or "instances" key in the JSON body')
    return PredictBody(signature_name, by_row, body["instances" if by_row else "inputs"])


def read_signature_name(body: Json) -> str:
    """Return the signature that a body names; empty for the default one.

    Raises:
        InvalidArgument: The body is no object, or names it by something else than a string.
    """
    if not isinstance(body, dict):
        raise InvalidArgument("JSON body: expected an object")
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise InvalidArgument('"signature_name": expected a string')
    return name


def to_request(body: PredictBody, signature: Signature, spec: ModelSpec) -> bytes:
    """Return the serialized PredictRequest.

    Args:
        body: what the caller sent.
        signature: the one that it names.
        spec: the model and version that its URL names; the signature's name is filled in here.

    Raises:
        ServingError: The body does not fit the signature.
    """
    values = _columns(body.value, signature) if body.by_row else _inputs(body.value, signature)
    spec.signature_name = body.signature_name
    pieces: list[wire.Piece] = wire.bytes_field(1, [spec.SerializeToString()])
    for alias, value in values.items():
        array = to_array(value, signature.inputs[alias].data_type, alias)
        pieces += wire.map_entry(2, alias, tensors.to_wire(array))
    return wire.join(pieces)


def _columns(rows: Json, signature: Signature) -> dict[str, Json]:
    """Return the value of each input, of what `instances` holds."""
    if not isinstance(rows, list):
        raise InvalidArgument('"instances": expected a list')
    if not rows:
        raise InvalidArgument('"instances": expected at least one, got an empty list')
    if not isinstance(rows[0], dict) or is_b64(rows[0]):
        return {_only_input(signature, "instances", "a list of objects"): rows}
    names = rows[0].keys()
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != names:
            raise InvalidArgument(
                f'"instances": expected objects with the same keys, {sorted(names)}, '
                f"and {index} is otherwise"
            )
    _check_names(set(names), signature, "instances", extra_allowed=False)
    return {name: [row[name] for row in rows] for name in names}


def _inputs(value: Json, signature: Signature) -> dict[str, Json]:
    """Return the value of each input, of what `inputs` holds."""
    if not isinstance(value, dict) or is_b64(value):
        return {_only_input(signature, "inputs", "an object"): value}
    _check_names(set(value), signature, "inputs", extra_allowed=True)
    return {name: value[name] for name in signature.inputs if name in value}


def _only_input(signature: Signature, key: str, otherwise: str) -> str:
    if len(signature.inputs) != 1:
        raise InvalidArgument(
            f'"{key}": expected {otherwise}, as signature {signature.name!r} has '
            f"{len(signature.inputs)} inputs: {sorted(signature.inputs)}"
        )
    return next(iter(signature.inputs))


def _check_names(given: set[str], signature: Signature, key: str, *, extra_allowed: bool) -> None:
    missing = signature.inputs.keys() - given - signature.defaults.keys()
    extra = given - signature.inputs.keys()
    if missing or (extra and not extra_allowed):
        raise InvalidArgument(
            f'"{key}": expected the inputs {_listed(signature.inputs)}; '
            f"missing: {_listed(missing)}, sent beside them: {_listed(extra)}"
        )


def _listed(names: Collection[str]) -> str:
    """Return names in brackets, as many and as much of each as a message has place for."""
    shown = [repr(name[:_LONGEST_NAME]) for name in sorted(names)[:_MOST_NAMES]]
    more = [f"and {len(names) - len(shown)} more"] * (len(names) > len(shown))
    return f"[{', '.join(shown + more)}]"


def to_response(response: bytes, *, by_row: bool) -> bytes:
    """Return a serialized PredictResponse as JSON text, in the form of its request.

    Raises:
        InvalidArgument: JSON has no form for an output, or rows were asked for and there are none.
    """
    protos = PredictResponse.FromString(response).outputs
    outputs = {alias: tensors.to_array(protos[alias]) for alias in sorted(protos)}
    return _rows(outputs) if by_row else _outputs(outputs)


def _outputs(outputs: dict[str, NDArray[Any]]) -> bytes:
    texts = {alias: to_json(array, alias) for alias, array in outputs.items()}
    if len(texts) == 1:
        return b'{"outputs":%b}' % next(iter(texts.values()))
    return orjson.dumps({"outputs": {a: orjson.Fragment(text) for a, text in texts.items()}})


def _rows(outputs: dict[str, NDArray[Any]]) -> bytes:
    rows = None
    for alias, array in outputs.items():
        if not array.ndim:
            raise InvalidArgument(f"Tensor name: {alias} has no shape information")
        if rows is not None and len(array) != rows:
            raise InvalidArgument(
                f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {rows}"
            )
        rows = len(array)
    if len(outputs) == 1:
        ((alias, array),) = outputs.items()
        return b'{"predictions":%b}' % to_json(array, alias)
    columns = [rows_of(array, alias) for alias, array in outputs.items()]
    objects = [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
    return orjson.dumps({"predictions": objects}, option=orjson.OPT_SERIALIZE_NUMPY)
