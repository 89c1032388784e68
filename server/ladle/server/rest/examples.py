"""Classify's and Regress's JSON to and from their messages. Pure functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from ladle.protos.serving_pb import (
    ClassificationRequest,
    ClassificationResponse,
    Input,
    ModelSpec,
    RegressionResponse,
)
from ladle.protos.tensorflow_pb import Example, Feature
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json_tensors import Json, text_bytes, to_json, unb64
from ladle.server.rest.predict import read_signature_name


def to_request(body: Json, spec: ModelSpec) -> bytes:
    """Return the serialized ClassificationRequest, which is a RegressionRequest's twin on the wire.

    Raises:
        InvalidArgument: The body is no such request.
    """
    spec.signature_name = read_signature_name(body)
    listed = body.get("examples")
    if not isinstance(listed, list) or not listed:
        raise InvalidArgument('"examples": expected a list of at least one object')
    examples = [_example(value, f'"examples", {index}') for index, value in enumerate(listed)]
    message = Input()
    if "context" in body:
        message.example_list_with_context.context.CopyFrom(_example(body["context"], '"context"'))
        message.example_list_with_context.examples.extend(examples)
    else:
        message.example_list.examples.extend(examples)
    return ClassificationRequest(model_spec=spec, input=message).SerializeToString()


def _example(features: Json, where: str) -> Example:
    if not isinstance(features, dict):
        raise InvalidArgument(f"{where}: expected an object of features")
    example = Example()
    for name, value in features.items():
        named = f"{where}, feature {name!r}"
        key = text_bytes(name, named).decode(errors="replace")
        _fill(example.features.feature[key], value, named)
    return example


def _fill(feature: Feature, value: Json, where: str) -> None:
    values: list[Any] = value if isinstance(value, list) else [value]
    kinds = set(map(type, values))
    try:
        if not kinds:
            return  # a feature that is missing
        if kinds <= {str, dict}:
            feature.bytes_list.value.extend(
                text_bytes(v, where) if isinstance(v, str) else unb64(v, where) for v in values
            )
        elif kinds == {float}:
            with np.errstate(over="ignore"):
                feature.float_list.value.extend(np.array(values, np.float32))
        elif kinds in ({int}, {bool}):
            feature.int64_list.value.extend(map(int, values))
        else:
            raise InvalidArgument(
                f"{where}: expected numbers of one kind, strings or booleans, "
                "not null, lists in lists or a mixture"
            )
    except ValueError:
        raise InvalidArgument(f"{where}: an integer is out of the range of int64") from None


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
