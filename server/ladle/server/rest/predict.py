"""Predict's JSON to and from its messages. Pure functions."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
from numpy.typing import NDArray

from ladle.protos import tensors, wire
from ladle.protos.serving_pb import ModelSpec, PredictResponse
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature
from ladle.server.rest.json_tensors import Json, is_b64, rows_of, to_array, to_json


class PredictBody(NamedTuple):
    """The parts of a body."""

    signature_name: str
    by_row: bool
    """Whether `value` is what `instances` holds, and not `inputs`."""
    value: Json


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
    extra = set() if extra_allowed else given - signature.inputs.keys()
    if missing or extra:
        raise InvalidArgument(
            f'"{key}": expected the inputs {sorted(signature.inputs)}; '
            f"missing: {sorted(missing)}, sent beside them: {sorted(extra)}"
        )


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
