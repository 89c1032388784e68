"""The REST interface over a real port: URLs, probes and errors."""

from __future__ import annotations

from typing import Any

import pytest
from server.rest.conftest import Setting

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
def test_predict_by_row_answers_at_every_form_of_url(rest: Setting, path: str) -> None:
    response = rest.post(path, ROWS)
    assert (response.status_code, response.json()) == (200, PREDICTIONS)
    assert response.headers["content-type"] == "application/json"


def test_predict_by_column_answers_in_columns(rest: Setting) -> None:
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
    rest: Setting, method: str, path: str, status: int, error: str
) -> None:
    content: Any = ROWS if method == "POST" else None
    response = rest.http.request(method, path, json=content)
    assert response.status_code == status
    assert response.json() == {"error": error}
    assert response.headers["content-type"] == "application/json"


def test_probes_answer(rest: Setting) -> None:
    assert rest.http.get("/livez").status_code == 200
    assert rest.http.get("/readyz").json() == {"status": "ready"}
    assert rest.http.head("/readyz").status_code == 200
