"""Every route of the HTTP port, with tokens on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest
from fakes import TIMEOUT_S, FakeLoader

from ladle.server import Config, Server
from ladle.server.core.access import Kind
from ladle.server.rest.routes import Route

TOKENS = {
    Kind.PREDICT: "the-token-for-predict",
    Kind.METADATA: "the-token-for-metadata",
    Kind.ADMIN: "the-token-for-admin",
}
EVERY = "the-token-for-every-model"
# What needs no token, as SECURITY.md has it: probes, and the page without its numbers.
SCRIPTS = ("page", "docs", "dom", "examples", "models", "picture", "server", "snippets")
PROBES = {
    *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"),
    *("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"),
}
OPEN = PROBES | {"/", "/docs", "/page.css", *(f"/{name}.js" for name in SCRIPTS)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves model `a`; the tokens are for models whose names begin so, but for one."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "a" / "1").mkdir(parents=True)
    lines = [
        {"token": token, "kinds": [kind.value], "models": ["a*"]} for kind, token in TOKENS.items()
    ]
    lines.append({"token": EVERY})
    (folder / "tokens").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = Config(
        port=None,
        rest_api_port=None,
        model_name="a",
        model_base_path=str(folder / "a"),
        auth_tokens_file=str(folder / "tokens"),
        drain_grace_seconds=0,
    )
    server = Server(config, load=FakeLoader())
    server.start()
    yield server
    server.stop(lame_duck=False)


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    port = server.addresses[-1].rpartition(":")[2]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S) as client:
        yield client


def routes(server: Server) -> list[Route]:
    assert server.http is not None
    # An unload would take the model from the other tests.
    return [r for r in server.http.app.routes.routes if not r.path.endswith("/unload")]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def url(route: Route, model: str = "a") -> str:
    names = {"model": model, "version": "1", "label": "stable", "repository": "r", "region": "r"}
    return route.path.format(**names)


def test_every_route_needs_a_token_but_for_those_that_are_open(
    server: Server, http: httpx.Client
) -> None:
    found = routes(server)
    assert {route.path for route in found if route.kind is Kind.OPEN} <= OPEN
    for route in found:
        for headers in {}, bearer("unheard-of-token"), {"authorization": "Basic YTpi"}:
            answer = http.request(route.method, url(route), headers=headers)
            if route.kind is Kind.OPEN:
                assert answer.status_code == 200, route
                continue
            assert answer.status_code == 401, route
            assert answer.headers["www-authenticate"] == "Bearer"
            assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/a",
        "/V1/Models/a:predict",
        "/v1/models/%61",
        "/v1/models/a/",
        "//v1/models/a",
        "/v1",
        "/no/such/thing",
        "/livez/",
        "/livez/../v1/models",
        "/monitoring/prometheus/metrics",
    ],
)
def test_whatever_else_is_asked_for_needs_one_too(
    http: httpx.Client, method: str, path: str
) -> None:
    assert http.request(method, path).status_code == 401


def test_a_token_is_good_for_routes_of_its_kind_alone(server: Server, http: httpx.Client) -> None:
    for route in routes(server):
        if route.kind is Kind.OPEN:
            continue
        for kind, token in TOKENS.items():
            status = http.request(route.method, url(route), headers=bearer(token)).status_code
            assert status != 401, route
            about_all = "{model}" not in route.path and route.about({}) is None
            assert (status == 403) == (kind is not route.kind or about_all), (route, kind)


def test_a_token_is_good_for_its_models_alone(server: Server, http: httpx.Client) -> None:
    for route in routes(server):
        if route.kind is Kind.OPEN or "{model}" not in route.path:
            continue
        for model in "b", "%62", "A":
            answer = http.request(
                route.method, url(route, model), headers=bearer(TOKENS[route.kind])
            )
            assert answer.status_code == 403, route
            assert "is for models named a*" in answer.json()["error"]
        allowed = http.request(route.method, url(route, "%61"), headers=bearer(TOKENS[route.kind]))
        assert allowed.status_code != 403


def test_with_its_token_a_request_is_answered(http: httpx.Client) -> None:
    body = {"instances": [[1.0, 2.0]]}
    answer = http.post("/v1/models/a:predict", json=body, headers=bearer(TOKENS[Kind.PREDICT]))
    assert answer.json() == {"predictions": [[2.0, 4.0]]}
    assert http.get("/v1/models", headers=bearer(EVERY)).status_code == 200


def test_a_caller_without_a_token_is_refused_before_the_body_is_sent(http: httpx.Client) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 0)) as raw:
        raw.settimeout(TIMEOUT_S)
        raw.sendall(
            b"POST /v1/models/a:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"
        )
        assert raw.recv(1 << 10).startswith(b"HTTP/1.1 401 ")
