"""Predict's JSON to and from its messages."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fakes import FLOAT, spec
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.serving_pb import ModelSpec, PredictRequest, PredictResponse
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.rest.json.predict import read_body, to_request, to_response

ONE = Signature(name="serving_default", inputs={"x": spec(-1, 2)}, outputs={"y": spec(-1)})
TWO = Signature(
    name="two",
    inputs={"a": spec(-1), "s": TensorSpec(dtypes.STRING, (-1,))},
    outputs={"y": spec(-1)},
)
DEFAULTED = Signature(
    name="defaulted",
    inputs={"a": spec(-1), "k": spec()},
    outputs={"y": spec(-1)},
    defaults={"k": np.array(1, np.float32)},
)


def inputs(body: Any, signature: Signature) -> dict[str, Any]:
    """The inputs of the message that a body becomes, as lists."""
    message = PredictRequest.FromString(to_request(read_body(body), signature, ModelSpec(name="m")))
    assert message.model_spec.name == "m"
    arrays = {alias: tensors.to_array(proto) for alias, proto in message.inputs.items()}
    return {alias: array.tolist() for alias, array in sorted(arrays.items())}


@pytest.mark.parametrize(
    ("body", "signature", "expected"),
    [
        ({"instances": [[1, 2], [3, 4]]}, ONE, {"x": [[1, 2], [3, 4]]}),
        ({"instances": [{"x": [1, 2]}]}, ONE, {"x": [[1, 2]]}),
        ({"instances": [5]}, ONE, {"x": [5]}),
        (
            {"instances": [{"a": 1, "s": "t"}, {"a": 2, "s": {"b64": "aGk="}}]},
            TWO,
            {"a": [1, 2], "s": [b"t", b"hi"]},
        ),
        ({"inputs": [[1, 2]]}, ONE, {"x": [[1, 2]]}),
        ({"inputs": 3}, ONE, {"x": 3}),
        ({"inputs": {"x": [[1, 2]]}}, ONE, {"x": [[1, 2]]}),
        ({"inputs": {"a": [1, 2], "s": "t", "else": None}}, TWO, {"a": [1, 2], "s": b"t"}),
        ({"inputs": {"a": [1]}}, DEFAULTED, {"a": [1]}),
        ({"instances": [{"a": 1}, {"a": 2}]}, DEFAULTED, {"a": [1, 2]}),
    ],
)
def test_rows_and_columns_become_inputs(
    body: Any, signature: Signature, expected: dict[str, Any]
) -> None:
    assert inputs(body, signature) == expected


def test_the_signature_of_the_body_and_the_version_of_the_url_go_into_the_message() -> None:
    url = ModelSpec(name="m", version_label="stable")
    body = read_body({"signature_name": "s", "inputs": [[1, 2]]})
    sent = PredictRequest.FromString(to_request(body, ONE, url)).model_spec
    assert (sent.name, sent.version_label, sent.signature_name) == ("m", "stable", "s")


@pytest.mark.parametrize(
    ("body", "signature", "message"),
    [
        ([], ONE, "JSON body: expected an object"),
        ({}, ONE, 'Missing "inputs" or "instances" key'),
        ({"inputs": [], "instances": []}, ONE, 'expected "instances" or "inputs", got both'),
        ({"signature_name": 1, "inputs": []}, ONE, '"signature_name": expected a string'),
        ({"instances": {}}, ONE, '"instances": expected a list'),
        ({"instances": []}, ONE, '"instances": expected at least one, got an empty list'),
        ({"instances": [[1], [1, 2]]}, ONE, "input 'x': expected lists of equal size"),
        ({"instances": [1]}, TWO, '"instances": expected a list of objects, as signature'),
        ({"instances": [{"a": 1}]}, TWO, "missing: ['s']"),
        ({"instances": [{"a": 1, "s": "", "z": 1}]}, TWO, "sent beside them: ['z']"),
        ({"inputs": {"zz": 1}}, TWO, "missing: ['a', 's'], sent beside them: ['zz']"),
        ({"inputs": {f"{i:03}": 1 for i in range(100)}}, TWO, "'019', and 80 more]"),
        (
            {"instances": [{"a": 1, "s": ""}, {"a": 1}]},
            TWO,
            "expected objects with the same keys, ['a', 's'], and 1 is otherwise",
        ),
        ({"instances": [{"a": 1, "s": ""}, 1]}, TWO, "and 1 is otherwise"),
        ({"inputs": 1}, TWO, "\"inputs\": expected an object, as signature 'two' has 2 inputs"),
        ({"inputs": {"a": 1}}, TWO, "missing: ['s']"),
    ],
)
def test_a_body_that_does_not_fit_is_refused(body: Any, signature: Signature, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        inputs(body, signature)
    assert message in error.value.message


def answer(**outputs: Any) -> bytes:
    response = PredictResponse()
    for alias, value in outputs.items():
        array: NDArray[Any] = (
            value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        )
        response.outputs[alias].CopyFrom(tensors.to_proto(array))
    return response.SerializeToString()


@pytest.mark.parametrize(
    ("outputs", "by_row", "expected"),
    [
        ({"y": [1, 2]}, True, {"predictions": [1.0, 2.0]}),
        ({"y": [[1], [2]]}, True, {"predictions": [[1.0], [2.0]]}),
        (
            {"y": [1, 2], "z": [[1, 2], [3, 4]]},
            True,
            {"predictions": [{"y": 1.0, "z": [1.0, 2.0]}, {"y": 2.0, "z": [3.0, 4.0]}]},
        ),
        (
            {"y": np.array([b"a", b"b"], object), "z_bytes": np.array([b"a", b"b"], object)},
            True,
            {
                "predictions": [
                    {"y": "a", "z_bytes": {"b64": "YQ=="}},
                    {"y": "b", "z_bytes": {"b64": "Yg=="}},
                ]
            },
        ),
        ({"y": 3}, False, {"outputs": 3.0}),
        ({"y": 3, "z": [[True]]}, False, {"outputs": {"y": 3.0, "z": [[1.0]]}}),
        ({"y": np.array([True])}, False, {"outputs": [True]}),
    ],
)
def test_outputs_are_told_as_they_were_asked_for(
    outputs: dict[str, Any], by_row: bool, expected: Any
) -> None:
    assert json.loads(to_response(answer(**outputs), by_row=by_row)) == expected


def test_numbers_that_are_none_stand_in_rows_of_several_outputs_too() -> None:
    text = to_response(answer(y=[np.nan, np.inf], z=[[1, -np.inf], [2, 3]]), by_row=True)
    assert text == (b'{"predictions":[{"y":NaN,"z":[1.0,-Infinity]},{"y":Infinity,"z":[2.0,3.0]}]}')


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": 3}, "Tensor name: y has no shape information"),
        ({"y": [1], "z": [1, 2]}, "Tensor name: z has inconsistent batch size: 2 expecting: 1"),
        ({"y": np.zeros(1, np.float16)}, "which JSON has no form for"),
    ],
)
def test_outputs_that_are_no_rows_are_refused(outputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        to_response(answer(**outputs), by_row=True)
    assert message in error.value.message


def test_the_dtype_of_the_signature_decides() -> None:
    signature = Signature(name="s", inputs={"x": spec(-1, data_type=9)}, outputs={"y": spec(-1)})
    assert signature.inputs["x"].data_type != FLOAT
    message = PredictRequest.FromString(
        to_request(read_body({"instances": [1, 2]}), signature, ModelSpec(name="m"))
    )
    assert tensors.to_array(message.inputs["x"]).dtype == np.int64
