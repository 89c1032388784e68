"""The OpenAPI document: what it says is what the server takes and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from server.rest.conftest import Harness, serving

from ladle.server.core.access import Kind
from ladle.server.rest.page.openapi import document
from ladle.server.rest.routes import Route, of_model


async def endpoint(_: Any) -> Any: ...


ROUTES = [
    *of_model("POST", ":predict", Kind.PREDICT, endpoint, "Predict"),
    *of_model("POST", ":classify", Kind.PREDICT, endpoint, "Classify"),
    *of_model("GET", "/metadata", Kind.METADATA, endpoint, "Signatures"),
    Route("GET", "/readyz", Kind.OPEN, endpoint, "Ready?"),
]


def tensor(dtype: str, shape: list[int] | None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape}


def model(
    inputs: dict[str, Any], outputs: dict[str, Any], *, name: str = "m", **signature: str
) -> dict[str, Any]:
    """A model with one version, as the overview has it."""
    described = {"inputs": inputs, "outputs": outputs, "method_name": ""} | signature
    version = {
        "version": "3",
        "state": "AVAILABLE",
        "labels": [],
        "signatures": {"serving_default": described},
    }
    return {"name": name, "versions": [version]}


def described(*models: dict[str, Any], by_token: bool = False) -> dict[str, Any]:
    return document(ROUTES, list(models), version="1", by_token=by_token)


def request_body(made: dict[str, Any], path: str = "/v1/models/m:predict") -> dict[str, Any]:
    body: dict[str, Any] = made["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    return body


def fits(value: Any, schema: dict[str, Any]) -> bool:
    return jsonschema.Draft4Validator(schema).is_valid(value)


def test_a_request_has_the_shapes_and_dtypes_of_the_signature() -> None:
    made = described(model({"x": tensor("uint8", [-1, 2])}, {"y": tensor("float32", [-1])}))
    schema = request_body(made)["schema"]
    assert fits({"inputs": [[1, 255], [3, 4]]}, schema)
    assert fits({"signature_name": "serving_default", "instances": [[0, 0]]}, schema)
    wrong_ones: list[dict[str, Any]] = [
        {"inputs": [[1, 256]]},
        {"inputs": [[1, 2, 3]]},
        {"inputs": [1, 2]},
        {"inputs": [[0.5, 1]]},
        {"inputs": [[1, 2]], "instances": [[1, 2]]},
        {"instances": []},
        {"signature_name": "other", "inputs": [[1, 2]]},
        {},
    ]
    for wrong in wrong_ones:
        assert not fits(wrong, schema), wrong


def test_several_inputs_are_an_object_and_bytes_are_base64() -> None:
    inputs = {"a": tensor("string", [-1]), "b": tensor("bool", [-1, 1])}
    schema = request_body(described(model(inputs, {"y": tensor("float32", [-1])})))["schema"]
    assert fits({"inputs": {"a": ["text"], "b": [[True]]}}, schema)
    assert fits({"instances": [{"a": {"b64": "AA=="}, "b": [False]}]}, schema)
    assert not fits({"inputs": {"a": [1], "b": [[True]]}}, schema)


def test_what_has_no_rows_can_not_come_as_instances() -> None:
    made = described(model({"x": tensor("float32", [])}, {"y": tensor("float32", None)}))
    assert fits({"inputs": 0.5}, request_body(made)["schema"])
    assert not fits({"instances": [0.5]}, request_body(made)["schema"])
    assert request_body(made)["example"] == {"inputs": 0}


def test_an_example_is_there_where_it_is_short() -> None:
    outputs = {"y": tensor("float32", [-1, 10])}
    short = described(model({"x": tensor("float32", [-1, 3])}, outputs))
    assert request_body(short)["example"] == {"inputs": [[0, 0, 0]]}
    long = described(model({"x": tensor("float32", [-1, 224, 224, 3])}, outputs))
    assert "example" not in request_body(long)
    unknown = described(model({"x": tensor("float32", None)}, outputs))
    assert "example" not in request_body(unknown)
    assert len(json.dumps(long)) < 10_000


def test_classify_is_there_where_a_signature_is_one() -> None:
    inputs, outputs = {"examples": tensor("string", [-1])}, {"scores": tensor("float32", [-1, 2])}
    plain = described(model(inputs, outputs))
    assert "/v1/models/m:classify" not in plain["paths"]
    made = described(model(inputs, outputs, method_name="tensorflow/serving/classify"))
    schema = request_body(made, "/v1/models/m:classify")["schema"]
    assert fits({"examples": [{"x": 1.5}]}, schema)
    assert not fits({"instances": [{"x": 1.5}]}, schema)


def test_names_are_escaped_in_paths_and_paths_name_their_parameters() -> None:
    inputs, outputs = {"x": tensor("float32", [-1])}, {"y": tensor("float32", [-1])}
    made = described(model(inputs, outputs, name="a/{b} c"))
    assert "/v1/models/a%2F%7Bb%7D%20c:predict" in made["paths"]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation.get("parameters", ())}
            assert named == set(re.findall(r"\{(\w+)\}", path)), path
    listed = made["paths"]["/v1/models/{model}/metadata"]["get"]["parameters"]
    assert listed[0]["schema"]["enum"] == ["a/{b} c"]


def test_operations_have_names_of_their_own() -> None:
    inputs, outputs = {"x": tensor("float32", [-1])}, {"y": tensor("float32", [-1])}
    models = [model(inputs, outputs, name=name) for name in ("a b", "a-b", "a_b")]
    made = described(*models)
    names = [o["operationId"] for path in made["paths"].values() for o in path.values()]
    assert len(names) == len(set(names))


def test_a_model_that_is_not_available_has_no_predictions() -> None:
    one = model({"x": tensor("float32", [-1])}, {"y": tensor("float32", [-1])})
    one["versions"][0] |= {"state": "END", "signatures": {}}
    assert not any(":predict" in path for path in described(one)["paths"])


def test_tokens_are_asked_for_where_they_are_needed() -> None:
    one = model({"x": tensor("float32", [-1])}, {"y": tensor("float32", [-1])})
    made = described(one, by_token=True)
    assert made["paths"]["/v1/models/m:predict"]["post"]["security"] == [{"token": []}]
    assert "security" not in made["paths"]["/readyz"]["get"]
    assert made["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert "securitySchemes" not in described(one)["components"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with serving(tmp_path_factory.mktemp("openapi")) as setting:
        yield setting


def test_the_server_takes_and_answers_what_its_document_says(labelled: Harness) -> None:
    made = labelled.http.get("/openapi.json").json()
    for form in "", "/versions/2", "/labels/stable":
        path = f"/v1/models/m{form}:predict"
        operation = made["paths"][re.sub("/2:|/stable:", _parameter, path)]["post"]
        body = operation["requestBody"]["content"]["application/json"]
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for request in body["example"], {"instances": [[1, 2]]}:
            assert fits(request, body["schema"])
            answered = labelled.post(path, request)
            assert answered.status_code == 200
            assert fits(answered.json(), answer)


def _parameter(found: re.Match[str]) -> str:
    return {"/2:": "/{version}:", "/stable:": "/{label}:"}[found[0]]


def test_all_that_is_answered_is_in_the_document(labelled: Harness) -> None:
    made = labelled.http.get("/openapi.json").json()
    assert labelled.server.http is not None
    pages = {"/", "/docs", "/status.json", "/openapi.json"}
    for route in labelled.server.http.app.routes.routes:
        if route.path in pages or re.search(r"\.(css|js)$", route.path):
            continue
        if not route.summary:
            assert route.path.startswith("/v2"), route.path
            continue
        if route.api in ("classify", "regress"):
            continue  # the fake model has no such signature
        path = route.path.replace("{model}", "m") if route.api == "predict" else route.path
        assert route.method.lower() in made["paths"][path], route.path


def test_the_open_inference_protocol_is_in_the_document(labelled: Harness) -> None:
    made = labelled.http.get("/openapi.json").json()
    infer = made["paths"]["/v2/models/{model}/infer"]["post"]
    schema = infer["requestBody"]["content"]["application/json"]["schema"]
    asked = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    assert fits(asked, schema)
    assert labelled.post("/v2/models/m/infer", asked).status_code == 200
    assert not fits({"inputs": [{"name": "x", "data": [1, 2]}]}, schema)
    assert not any("shared" in path for path in made["paths"])
