"""Classify's and Regress's JSON to and from their messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ladle.protos.serving_pb import (
    Class,
    ClassificationRequest,
    ClassificationResponse,
    Classifications,
    ModelSpec,
    Regression,
    RegressionResponse,
)
from ladle.server.core.errors import InvalidArgument
from ladle.server.rest.json.examples import classification_json, regression_json, to_request


def sent(body: Any) -> ClassificationRequest:
    return ClassificationRequest.FromString(to_request(body, ModelSpec(name="m")))


def feature(value: Any) -> dict[str, list[Any]]:
    """The list that a value becomes, by its kind."""
    made = sent({"examples": [{"f": value}]}).input.example_list.examples[0].features.feature["f"]
    kind = made.WhichOneof("kind")
    return {kind: list(getattr(made, kind).value)} if kind else {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, {"int64_list": [1]}),
        ([1, -2], {"int64_list": [1, -2]}),
        (1.5, {"float_list": [1.5]}),
        ([1.0, 2.5], {"float_list": [1.0, 2.5]}),
        (True, {"int64_list": [1]}),
        ([True, False], {"int64_list": [1, 0]}),
        ("a", {"bytes_list": [b"a"]}),
        (["a", {"b64": "aGk="}], {"bytes_list": [b"a", b"hi"]}),
        ([], {}),
    ],
)
def test_features_go_into_the_list_of_their_kind(value: Any, expected: dict[str, Any]) -> None:
    assert feature(value) == expected


@pytest.mark.parametrize("value", [None, [None], [[1]], [1, 2.5], [1, "a"], [True, 1], {"x": 1}])
def test_what_no_feature_can_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r'^"examples", 0, feature \'f\': '):
        feature(value)


def test_an_integer_beyond_int64_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="out of the range of int64"):
        feature(1 << 63)


def test_a_context_is_sent_beside_the_examples() -> None:
    message = sent({"signature_name": "s", "context": {"c": 1}, "examples": [{"f": 2}, {}]})
    assert message.model_spec.signature_name == "s"
    listed = message.input.example_list_with_context
    assert listed.context.features.feature["c"].int64_list.value == [1]
    assert len(listed.examples) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "JSON body: expected an object"),
        ({}, '"examples": expected a list of at least one object'),
        ({"examples": []}, '"examples": expected a list of at least one object'),
        ({"examples": [1]}, '"examples", 0: expected an object of features'),
        ({"examples": [{}], "context": 1}, '"context": expected an object of features'),
        ({"examples": [{}], "signature_name": []}, '"signature_name": expected a string'),
    ],
)
def test_a_body_that_is_no_request_is_refused(body: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        sent(body)
    assert error.value.message == message


def test_classes_are_pairs_of_label_and_score() -> None:
    response = ClassificationResponse()
    response.result.classifications.extend(
        [
            Classifications(classes=[Class(label="a", score=0.1), Class(score=0.9)]),
            Classifications(classes=[Class(label="b", score=float("nan"))]),
        ]
    )
    text = classification_json(response.SerializeToString())
    assert text == b'{"results":[[["a",0.1],["",0.9]],[["b",NaN]]]}'


def test_values_are_a_list() -> None:
    response = RegressionResponse()
    response.result.regressions.extend([Regression(value=0.1), Regression(value=float("inf"))])
    assert json.loads(regression_json(response.SerializeToString())) == {
        "results": [0.1, float("inf")]
    }
