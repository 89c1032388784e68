"""The REST interface over a real port: URLs, probes and errors."""

from __future__ import annotations

from typing import Any

import pytest
from server.rest.conftest import Harness

ROWS = {"instances": [[1, 2], [3, 4.5]]}
PREDICTIONS = {"predictions": [[2.0, 4.0], [6.0, 9.0]]}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m:predict",
        "/V1/Models/m:predict",
        "/v1/models/m/versions/1:predict",
        "/v1/models/m/versions/002:predict",
        "/v1/models/m/labels/stable:predict",
        "/v1/models/%6D:predict",
    ],
)
def test_predict_by_row_answers_at_every_form_of_url(rest: Harness, path: str) -> None:
    response = rest.post(path, ROWS)
    assert (response.status_code, response.json()) == (200, PREDICTIONS)
    assert response.headers["content-type"] == "application/json"


def test_predict_by_column_answers_in_columns(rest: Harness) -> None:
    response = rest.post("/v1/models/m:predict", {"inputs": {"x": [[1, 2]], "ignored": 1}})
    assert response.json() == {"outputs": [[2.0, 4.0]]}


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("POST", "/v1/models/n:predict", 404, "Servable not found for request: Latest(n)"),
        (
            "POST",
            "/v1/models/m/versions/9:predict",
            404,
            "Servable not found for request: Specific(m, 9)",
        ),
        ("POST", "/v1/models/m/labels/x:predict", 400, "Unrecognized servable version label: x"),
        (
            "POST",
            "/v1/models/m/versions/9223372036854775808:predict",
            400,
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        ("POST", "/v1/models/m:Predict", 400, "Malformed request: POST /v1/models/m:Predict"),
        ("GET", "/v1/models/m:predict", 400, "Malformed request: GET /v1/models/m:predict"),
        ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("OPTIONS", "/v1/models/m", 400, "Malformed request: OPTIONS /v1/models/m"),
        ("GET", "/v1/models/m/versions/x", 400, "Malformed request: GET /v1/models/m/versions/x"),
        ("GET", "/v1/models/n", 404, "Could not find any versions of model n"),
        ("GET", "/v1/models/m/versions/9", 404, "Could not find version 9 of model m"),
        ("GET", "/nothing", 404, "there is nothing at /nothing"),
        ("POST", "/livez", 405, "/livez takes GET"),
    ],
)
def test_wrong_urls_are_told_so(
    rest: Harness, method: str, path: str, status: int, error: str
) -> None:
    content: Any = ROWS if method == "POST" else None
    response = rest.http.request(method, path, json=content)
    assert response.status_code == status
    assert response.json() == {"error": error}
    assert response.headers["content-type"] == "application/json"


def test_probes_answer(rest: Harness) -> None:
    assert rest.http.get("/livez").status_code == 200
    assert rest.http.get("/readyz").json() == {"status": "ready"}
    assert rest.http.head("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        ("/v1/models/m", ["2", "1"]),
        ("/v1/models/m/versions/1", ["1"]),
        ("/v1/models/m/labels/stable", ["2", "1"]),  # as upstream, which looks at no label here
    ],
)
def test_status_lists_versions(rest: Harness, path: str, versions: list[str]) -> None:
    listed = rest.http.get(path).json()["model_version_status"]
    assert [status["version"] for status in listed] == versions
    assert {status["state"] for status in listed} == {"AVAILABLE"}


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/v1/models/m/metadata", "2"),
        ("/v1/models/m/versions/1/metadata", "1"),
        ("/v1/models/m/labels/stable/metadata", "1"),
    ],
)
def test_metadata_is_of_the_version_that_the_url_names(
    rest: Harness, path: str, version: str
) -> None:
    metadata = rest.http.get(path).json()
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": version}
    assert list(metadata["metadata"]["signature_def"]["signature_def"]) == ["serving_default"]


def test_models_are_listed_with_labels(rest: Harness) -> None:
    (model,) = rest.http.get("/v1/models").json()["models"]
    assert (model["name"], model["available"], model["problem"]) == ("m", True, "")
    assert {v["version"]: v["labels"] for v in model["versions"]} == {"1": ["stable"], "2": []}
