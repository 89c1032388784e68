"""The application by itself: bounds, encodings, deadlines, and who may call what."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import TIMEOUT_S

from ladle.server.call import Call, Methods, NonBlocking
from ladle.server.core.access import Access, Grant, Kind, Tokens, digest_of
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rest.app import App, AppOptions
from ladle.server.rest.calls import Pools, Services
from ladle.server.rest.encodings import Encodings
from ladle.server.rest.json.process import JsonProcesses
from ladle.server.rest.request import Request
from ladle.server.rest.response import Response
from ladle.server.rest.routes import Route
from ladle.server.rest.status_codes import http_status, json_response
from ladle.server.transport.http.exchange import Exchange, Headers

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def pools() -> Iterator[Pools]:
    with ThreadPoolExecutor(2) as working, ThreadPoolExecutor(2) as waiting:
        yield Pools(working, waiting, JsonProcesses(1))


async def echo(request: Request) -> Response:
    return json_response(request.body)


def within(max_request_bytes: int = 1 << 20, budget: int = 1 << 30) -> Limits:
    return Limits(max_request_bytes, ByteBudget(budget))


def app(
    pools: Pools,
    *routes: Route,
    methods: Methods | None = None,
    limits: Limits | None = None,
    options: AppOptions | None = None,
    access: Access | None = None,
) -> App:
    return App(
        routes or [Route("POST", "/echo", Kind.PREDICT, echo)],
        Services(methods or {}, pools),
        limits or within(),
        options,
        access,
    )


class Coming:
    """A request whose body comes piece by piece, as it is asked for; has the answer in the end."""

    def __init__(
        self,
        method: str,
        path: str,
        *pieces: bytes,
        headers: Sequence[tuple[str, str]] = (),
        local: bool = True,
        ends: bool = True,
        leaves: bool = False,
    ) -> None:
        """Its last piece is followed by the body's end, if it `ends`, and then the caller leaves,
        if it `leaves`. Made in an event loop."""
        given = Headers([(name.lower(), value) for name, value in headers])
        self.exchange = Exchange(method, path, given, self, local=local)
        self.wanted = 0
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = b""
        self._pieces = [*pieces]
        self._ends, self._leaves = ends, leaves

    def wants_more(self, exchange: Exchange) -> None:
        self.wanted += 1
        if self._pieces:
            self.exchange.feed(self._pieces.pop(0))
            return
        if self._ends:
            self.exchange.end_body()
        if self._leaves:
            asyncio.get_running_loop().call_soon(self.exchange.leave)

    def answer(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        self.status, self.headers, self.body = status, headers, body


def ask(
    application: App,
    method: str,
    path: str,
    *pieces: bytes,
    headers: dict[str, str] | None = None,
    more_headers: Sequence[tuple[str, str]] = (),
    local: bool = True,
    ends: bool = True,
    leaves: bool = False,
) -> tuple[int, Mapping[str, str], bytes]:
    """Drive one request through the application."""

    async def drive() -> Coming:
        all_headers = [*(headers or {}).items(), *more_headers]
        coming = Coming(
            method, path, *pieces, headers=all_headers, local=local, ends=ends, leaves=leaves
        )
        await asyncio.wait_for(application(coming.exchange), TIMEOUT_S)
        return coming

    coming = asyncio.run(drive())
    return coming.status, coming.headers, coming.body


def test_a_body_comes_in_pieces_and_is_bounded(pools: Pools) -> None:
    bounded = app(pools, limits=within(max_request_bytes=10))
    assert ask(bounded, "POST", "/echo", b"12345", b"67890")[::2] == (200, b"1234567890")
    status, headers, body = ask(bounded, "POST", "/echo", b"12345", b"678901")
    assert (status, headers["connection"]) == (413, "close")
    assert b"--max_request_bytes" in body
    assert ask(bounded, "POST", "/echo", headers={"content-length": "11"})[0] == 413


def test_a_body_in_another_transfer_coding_is_not_taken_for_what_it_says(pools: Pools) -> None:
    """RFC 9112 (6.1): a coding that is not understood is answered with 501."""
    for coding in ("gzip, chunked", "identity, chunked"):
        headers = {"transfer-encoding": coding}
        status, _, body = ask(app(pools), "POST", "/echo", b"12345", headers=headers)
        assert (status, f"got '{coding}'".encode() in body) == (501, True)
    headers = {"transfer-encoding": "Chunked"}
    assert ask(app(pools), "POST", "/echo", b"12345", headers=headers)[::2] == (200, b"12345")


def test_a_body_that_finds_no_room_is_told_to_come_back(pools: Pools) -> None:
    limits = within(budget=100)
    full = app(pools, limits=limits)
    limits.budget.take(90)
    status, headers, body = ask(full, "POST", "/echo", b"12345")
    assert (status, headers["retry-after"]) == (429, "1")
    assert b"--max_inflight_bytes" in body
    assert limits.budget.used == 90


def test_a_body_on_its_way_takes_no_more_room_than_has_come(pools: Pools) -> None:
    """Of a body that stalls, nothing is parsed yet: others have the rest of the budget."""
    limits = within(budget=1000)
    half = app(pools, limits=limits)
    used: list[int] = []

    class Leaving(Coming):
        def wants_more(self, exchange: Exchange) -> None:
            used.append(limits.budget.used)
            super().wants_more(exchange)

    async def drive() -> None:
        leaving = Leaving("POST", "/echo", b"x" * 500, ends=False, leaves=True)
        await half(leaving.exchange)

    asyncio.run(drive())
    assert used == [0, 500]


def test_a_body_that_stops_coming_ends_long_before_the_timeout(
    pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.server.rest.bodies._WINDOW_S", 0.01)
    status, headers, body = ask(app(pools), "POST", "/echo", b"12345", ends=False)
    assert (status, headers["connection"]) == (408, "close")
    assert b"the body stopped coming after 5 bytes" in body


@pytest.mark.parametrize("digits", ["9" * 18, "9" * 60_000, "0" * 30 + "9" * 9])
def test_an_announced_length_of_any_digits_is_a_number(pools: Pools, digits: str) -> None:
    assert ask(app(pools), "POST", "/echo", headers={"content-length": digits})[0] == 413


def test_a_request_names_one_host_at_most(pools: Pools) -> None:
    headers = [("host", "a"), ("host", "a")]
    status, _, body = ask(app(pools), "POST", "/echo", more_headers=headers)
    assert (status, b"expected one Host header, got 2" in body) == (400, True)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("", 200),
        ("10.0.0.1:8501", 200),
        ("[::1]:8501", 200),
        ("[::1]", 200),
        ("x_1.example:", 200),
        ("a b", 400),
        ("a/b", 400),
        ("user@a", 400),
        ("a:b", 400),
        ("::1", 400),
        ("a\tb", 400),
        ("http://a", 400),
        ("\u00e9", 400),
    ],
)
def test_a_host_is_a_name_or_an_address_with_a_port(pools: Pools, host: str, status: int) -> None:
    found, _, body = ask(app(pools), "POST", "/echo", b"1", more_headers=[("host", host)])
    assert (found, b"expected a host and maybe a port" in body) == (status, status == 400)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("models.example.org", 200),
        ("MODELS.example.org:8501", 200),
        ("a.pods.example.org:1", 200),
        ("[::1]:8501", 200),
        ("pods.example.org", 421),
        ("evil.org", 421),
        ("models.example.org.evil.org", 421),
        ("", 421),
    ],
)
def test_a_host_that_is_not_allowed_is_refused(pools: Pools, host: str, status: int) -> None:
    allowed = ("models.example.org", "*.pods.example.org", "[::1]")
    strict = app(pools, options=AppOptions(allowed_hosts=allowed))
    assert ask(strict, "POST", "/echo", b"1", headers={"host": host})[0] == status


def test_probes_use_any_host(pools: Pools) -> None:
    route = Route("GET", "/livez", Kind.OPEN, echo)
    strict = app(pools, route, options=AppOptions(allowed_hosts=("a",)))
    assert ask(strict, "GET", "/livez", headers={"host": "10.0.0.7:8501"})[0] == 200


def test_an_error_is_never_a_page(pools: Pools) -> None:
    path = "/v1/models/<script>alert(1)</script>"
    status, headers, _ = ask(app(pools), "GET", path)
    assert status == 400
    assert headers["content-type"] == "application/json"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_body_larger_than_the_room_is_taken_while_there_is_no_other(pools: Pools) -> None:
    limits = within(budget=100)
    full = app(pools, limits=limits)
    assert ask(full, "POST", "/echo", b"12345", b"67890", b"x" * 1000)[0] == 200
    limits.budget.take(1)
    status, _, body = ask(full, "POST", "/echo", b"1", b"234567")
    assert status == 429
    assert b"1 bytes of requests are under way of at most 100" in body
    assert b"the request brings 112" in body
    assert limits.budget.used == 1


def test_what_is_copied_beside_the_body_takes_room_too(pools: Pools) -> None:
    """Tensors after JSON are held by the body and by the message that is made of it."""
    encodings = Encodings(parsed_bytes=lambda _, nbytes: 2)
    route = Route("POST", "/echo", Kind.PREDICT, echo, encodings=encodings)
    body = b"{}" + b"x" * 98
    for budget, status in ((16 * 2 + 98 + 98, 429), (16 * 2 + 98 + 98 + 1, 200)):
        limits = within(budget=budget)
        limits.budget.take(1)
        assert ask(app(pools, route, limits=limits), "POST", "/echo", body)[0] == status


def test_of_a_compressed_body_what_is_parsed_takes_room(pools: Pools) -> None:
    content = gzip.compress(bytes(range(256)))
    limits = within(budget=16 * 256 + len(content) + 1)
    full = app(pools, limits=limits)
    limits.budget.take(1)
    headers = {"content-encoding": "gzip"}
    assert ask(full, "POST", "/echo", content, headers=headers)[0] == 200
    limits.budget.take(1)
    assert ask(full, "POST", "/echo", content, headers=headers)[0] == 429


def test_room_is_given_back_whatever_becomes_of_the_request(pools: Pools) -> None:
    async def fail(request: Request) -> Response:
        raise RuntimeError("secret")

    limits = within()
    failing = app(pools, Route("POST", "/fail", Kind.PREDICT, fail), limits=limits)
    status, _, body = ask(failing, "POST", "/fail", b"12345")
    assert (status, b"secret" in body) == (500, False)
    assert limits.budget.used == 0


@pytest.mark.parametrize("size", [10, 100_000])
def test_gzip_is_read_and_written(pools: Pools, size: int) -> None:
    content = b"x" * size
    status, headers, body = ask(
        app(pools),
        "POST",
        "/echo",
        gzip.compress(content),
        headers={"content-encoding": "gzip", "accept-encoding": "br;q=1, gzip;q=0.5"},
    )
    assert status == 200
    assert headers.get("content-encoding") == ("gzip" if size > 4096 else None)
    assert (gzip.decompress(body) if size > 4096 else body) == content


@pytest.mark.parametrize("accepted", ["", "br", "gzip;q=0", "identity", "*, gzip;q=0", "*;q=0"])
def test_who_takes_no_gzip_gets_none(pools: Pools, accepted: str) -> None:
    headers = {"accept-encoding": accepted}
    assert ask(app(pools), "POST", "/echo", b"x" * 9999, headers=headers)[2] == b"x" * 9999


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (gzip.compress(b"0" * 1_100_000), 413, b"--max_request_bytes"),
        (gzip.compress(b"x" * 1000)[:-9], 400, b"ends too early"),
        (gzip.compress(b"x") + b"more", 400, b"more after its end"),
        (b"no gzip", 400, b"not valid gzip"),
    ],
    ids=["bomb", "cut", "more", "other"],
)
def test_a_compressed_body_is_bounded_and_whole(
    pools: Pools, body: bytes, status: int, message: bytes
) -> None:
    limits = within()
    bounded = app(pools, limits=limits)
    answered = ask(bounded, "POST", "/echo", body, headers={"content-encoding": "gzip"})
    assert answered[0] == status
    assert message in answered[2]
    assert limits.budget.used == 0


def test_another_encoding_is_refused(pools: Pools) -> None:
    assert ask(app(pools), "POST", "/echo", b"x", headers={"content-encoding": "br"})[0] == 415


def test_cors_headers_come_only_when_asked_for(pools: Pools) -> None:
    names = [f"access-control-allow-{name}" for name in ("origin", "methods", "headers")]
    plain = ask(app(pools), "POST", "/echo")[1]
    assert not set(names) & set(plain)
    crossing = app(pools, options=AppOptions(cors=True))
    for method, path in (("POST", "/echo"), ("GET", "/nothing")):
        headers = ask(crossing, method, path)[1]
        assert [headers[name] for name in names] == ["*", "POST, GET", f"Content-Type, {LENGTH}"]
    origin = {"origin": "https://example.org"}
    assert ask(crossing, "OPTIONS", "/echo", headers=origin)[0] == 200
    assert ask(crossing, "OPTIONS", "/echo", headers={"origin": "example.org"})[0] == 400
    assert ask(crossing, "OPTIONS", "/echo")[0] == 400


def test_pages_of_other_origins_may_send_the_token_that_they_need(pools: Pools) -> None:
    guarded = app(pools, options=AppOptions(cors=True), access=Access(Tokens({})))
    origin = {"origin": "https://example.org"}
    status, headers, _ = ask(guarded, "OPTIONS", "/echo", headers=origin)
    assert status == 200
    assert headers["access-control-allow-headers"] == f"Content-Type, {LENGTH}, Authorization"


def test_a_dot_in_a_route_is_a_dot(pools: Pools) -> None:
    dotted = app(pools, Route("GET", "/page.css", Kind.OPEN, echo))
    assert ask(dotted, "GET", "/page.css")[0] == 200
    assert ask(dotted, "GET", "/pageXcss")[0] == 404


class Held:
    """A method that answers nobody, and hears when its callers go."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.path = "/tensorflow.serving.PredictionService/Classify"

    @property
    def methods(self) -> Methods:
        def hold(call: Call) -> None:
            call.on_end(self.left.set)

        return {self.path: NonBlocking(hold)}

    def route(self, pools: Pools) -> Route:
        services = Services(self.methods, pools)

        async def call(request: Request) -> Response:
            return json_response(await services.call(self.path, b"", request))

        return Route("POST", "/held", Kind.PREDICT, call)


def test_a_caller_who_goes_away_is_not_worked_for(pools: Pools) -> None:
    held = Held()
    assert ask(app(pools, held.route(pools)), "POST", "/held", leaves=True)[0] == 499
    assert held.left.is_set()


def test_a_caller_who_goes_away_in_the_middle_of_the_body_is_not_worked_for(pools: Pools) -> None:
    assert ask(app(pools), "POST", "/echo", b"1", ends=False, leaves=True)[0] == 499


def test_an_answer_that_takes_too_long_is_given_up(pools: Pools) -> None:
    held = Held()
    hurried = app(pools, held.route(pools), options=AppOptions(timeout_s=0.01))
    status, _, body = ask(hurried, "POST", "/held")
    assert (status, b"--rest_api_timeout_in_ms" in body) == (504, True)
    assert held.left.is_set()


def test_a_body_that_takes_too_long_is_given_up(pools: Pools) -> None:
    hurried = app(pools, options=AppOptions(timeout_s=0.01))
    assert ask(hurried, "POST", "/echo", b"1", ends=False)[0] == 504


@pytest.mark.parametrize(
    ("code", "status"),
    # Upstream's ToHTTPStatusCode.
    {
        "CANCELLED": 499,
        "UNKNOWN": 500,
        "INVALID_ARGUMENT": 400,
        "DEADLINE_EXCEEDED": 504,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "PERMISSION_DENIED": 403,
        "RESOURCE_EXHAUSTED": 429,
        "FAILED_PRECONDITION": 400,
        "ABORTED": 409,
        "OUT_OF_RANGE": 400,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNAVAILABLE": 503,
        "DATA_LOSS": 500,
        "UNAUTHENTICATED": 401,
    }.items(),
)
def test_each_code_has_its_status(pools: Pools, code: str, status: int) -> None:
    async def refuse(request: Request) -> Response:
        raise ServingError("why", Code[code])

    refusing = app(pools, Route("GET", "/", Kind.OPEN, refuse))
    answered, _, body = ask(refusing, "GET", "/")
    assert (answered, body) == (status, b'{"error":"why"}')


def test_every_code_has_a_status() -> None:
    assert {http_status(ServingError("", code)) for code in Code} <= set(range(200, 600))


def test_what_is_not_there_is_not_told_without_a_token(pools: Pools) -> None:
    grant = Grant("t", frozenset([Kind.METADATA]))
    guarded = app(pools, access=Access(Tokens({digest_of("looks"): grant})))
    status, headers, _ = ask(guarded, "GET", "/nothing")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    bearer = {"authorization": "Bearer looks"}
    assert ask(guarded, "GET", "/nothing", headers=bearer)[0] == 404


def test_what_still_runs_at_the_end_of_a_drain_is_answered(pools: Pools) -> None:
    """It would be cut off, with a traceback in the log."""

    async def drive() -> Coming:
        begun = asyncio.Event()

        async def endless(_: Request) -> Response:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        application = app(pools, Route("POST", "/echo", Kind.PREDICT, endless))
        coming = Coming("POST", "/echo")
        request = asyncio.ensure_future(application(coming.exchange))
        await asyncio.wait_for(begun.wait(), TIMEOUT_S)
        request.cancel()
        await request
        return coming

    coming = asyncio.run(drive())
    assert coming.status == 503
    assert b"the server is stopping" in coming.body
