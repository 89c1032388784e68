"""Classify's and Regress's JSON to and from their messages. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from ladle.protos.ladle_pb import ExamplesRequest
from ladle.protos.serving_pb import (
    ClassificationResponse,
    ModelSpec,
    RegressionResponse,
)
from ladle.protos.tensorflow_pb import Example, Feature
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json.predict import read_signature_name
from ladle.server.rest.json.tensors import Json, as_bytes, to_json


def to_request(body: Json, spec: ModelSpec) -> bytes:
    """Return the serialized ClassificationRequest, which is a RegressionRequest's twin on the wire.

    Raises:
        InvalidArgument: The body is no such request.
    """
    spec.signature_name = read_signature_name(body)
    listed = body.get("examples")
    if not isinstance(listed, list) or not listed:
        raise InvalidArgument('"examples": expected a list of at least one object')
    # Serialized one by one: together, as messages, small Examples would take 400 times their JSON.
    message = ExamplesRequest(model_spec=spec)
    if "context" in body:
        into = message.input.example_list_with_context.examples
        message.input.example_list_with_context.context = _example('"context"', body["context"])
    else:
        into = message.input.example_list.examples
    for index, features in enumerate(listed):
        into.append(_example('"examples"', features, index))
    return message.SerializeToString()


def _example(key: str, features: Json, index: int | None = None) -> bytes:
    """Return the serialized Example of what stands under a key, as its `index`-th where given."""
    example = Example()
    name = None
    try:
        if not isinstance(features, dict):
            raise InvalidArgument("expected an object of features")
        for name, value in features.items():
            _fill(example.features.feature[as_bytes(name).decode(errors="replace")], value)
    except InvalidArgument as error:
        # The place is made only now: most Examples are right, and need none.
        number = "" if index is None else f", {index}"
        feature = "" if name is None else f", feature {name!r}"
        raise InvalidArgument(f"{key}{number}{feature}: {error.message}") from None
    return example.SerializeToString()


def _fill(feature: Feature, value: Json) -> None:
    values: list[Any] = value if isinstance(value, list) else [value]
    kinds = set(map(type, values))
    try:
        if not kinds:
            return  # a feature that is missing
        if kinds <= {str, dict}:
            feature.bytes_list.value.extend(map(as_bytes, values))
        elif kinds == {float}:
            with np.errstate(over="ignore"):
                feature.float_list.value.extend(np.array(values, np.float32))
        elif kinds in ({int}, {bool}):
            feature.int64_list.value.extend(map(int, values))
        else:
            raise InvalidArgument(
                "expected numbers of one kind, strings or booleans, "
                "not null, lists in lists or a mixture"
            )
    except ValueError:
        raise InvalidArgument("an integer is out of the range of int64") from None


def classification_json(response: bytes) -> bytes:
    """Return a serialized ClassificationResponse as JSON text."""
    result = ClassificationResponse.FromString(response).result
    rows = [
        [[label_and_score.label, _float(label_and_score.score)] for label_and_score in row.classes]
        for row in result.classifications
    ]
    return orjson.dumps({"results": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def regression_json(response: bytes) -> bytes:
    """Return a serialized RegressionResponse as JSON text."""
    result = RegressionResponse.FromString(response).result
    values = np.array([regression.value for regression in result.regressions], np.float32)
    return b'{"results":%b}' % to_json(values, "results")


def _float(value: float) -> Any:
    narrow = np.float32(value)
    return narrow if np.isfinite(narrow) else orjson.Fragment(to_json(np.asarray(narrow), ""))
