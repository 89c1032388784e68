"""HTTP's own bounds, over raw sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from fakes import TIMEOUT_S
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.server.transport.addresses import AddressInUse, bind
from ladle.server.transport.descriptors import FOR_PROBES
from ladle.server.transport.http.connection import HttpConnection
from ladle.server.transport.http.connections import Connections
from ladle.server.transport.http.exchange import Exchange
from ladle.server.transport.http.transport import HttpTransport


class Application:
    """Answers when it is let to."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    async def __call__(self, exchange: Exchange) -> None:
        self.entered.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.005)
        exchange.respond(200, {}, b"ok")


class Served:
    """An application on a port."""

    def __init__(self, app: Any = None, **options: Any) -> None:
        self.app = app or Application()
        self.transport = HttpTransport(self.app, **options)
        self.port = self.transport.listen(0)
        self.transport.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def answer_to(self, *pieces: bytes) -> bytes:
        """All that comes until the server closes the connection."""
        with self.connect() as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:
                    break  # it has closed already
            return read_all(connection)


def read_answer(connection: socket.socket) -> None:
    """Read one answer, and nothing beyond it."""
    received = b""
    while not received.endswith(b"ok"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.transport.stop(0)


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def test_requests_are_answered(served: Served) -> None:
    assert served.answer_to(GET + b"\r\n").endswith(b"\r\n\r\nok")


def test_ipv6_is_served_on_the_same_port(served: Served) -> None:
    try:
        connection = socket.create_connection(("::1", served.port), TIMEOUT_S)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with connection:
        connection.sendall(GET + b"\r\n")
        assert read_all(connection).endswith(b"ok")


def test_a_head_without_end_is_cut_off(served: Served) -> None:
    served.app.entered.clear()
    line = b"X: " + b"x" * 1000 + b"\r\n"
    answer = served.answer_to(GET, *[line] * 500)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert not served.app.entered.is_set()


def test_a_body_is_no_head(served: Served) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n"
    assert served.answer_to(head, b"x" * 300_000).endswith(b"ok")


def test_the_rest_of_a_body_comes_soon_after_the_answer_or_not_at_all(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a refusal: a byte now and then would keep the connection for ever."""
    monkeypatch.setattr("ladle.server.transport.http.connection._REST_TIMEOUT_S", 0.05)
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        read_answer(connection)
        until = time.monotonic() + TIMEOUT_S
        connection.settimeout(0.01)
        while time.monotonic() < until:
            try:
                connection.sendall(b"x")
                if connection.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
    pytest.fail("the connection is still open")


def test_a_connection_goes_on_after_a_body_that_came_late(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        read_answer(connection)
        connection.sendall(b"12345" + GET + b"\r\n")
        assert read_all(connection).endswith(b"ok")


class Echo:
    """Answers what was sent, and how."""

    async def __call__(self, exchange: Exchange) -> None:
        body, is_whole = exchange.take()
        while not is_whole and await exchange.wait(time.monotonic() + TIMEOUT_S):
            piece, is_whole = exchange.take()
            body += piece
        names = ",".join(sorted(exchange.headers))
        head = f"{exchange.method} {exchange.path} {exchange.query}".encode()
        exchange.respond(200, {}, head + body + f" {names} ok".encode())


@pytest.fixture(scope="module")
def echoing() -> Iterator[Served]:
    served = Served(Echo())
    yield served
    served.transport.stop(0)


H2C = (
    b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABk\r\n"
)
POST = b"POST /p HTTP/1.1\r\n" + H2C
CLOSING = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [POST + b"Content-Length: 5\r\n\r\n12345"],
        [POST + b"Content-Length: 5\r\n\r\n", b"12345"],
        [POST + b"Content-Length: 5\r\n\r\n123", b"45"],
        [POST[:30], POST[30:] + b"Content-Length: 5\r\n\r", b"\n1", b"2345"],
        [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n12\r\n", b"3\r\n345\r\n0\r\n\r\n"],
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_a_request_that_offers_an_upgrade_keeps_its_body(
    echoing: Served, pieces: list[bytes], apart: bool
) -> None:
    """Java's HttpClient and curl --http2 offer h2c on every request over a plain connection."""
    pieces = [*pieces, CLOSING] if apart else [b"".join(pieces) + CLOSING]
    answers = echoing.answer_to(*pieces).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200"]
    assert b"POST /p 12345 " in answers[0]
    assert b"http2-settings" in answers[0]
    assert b"upgrade," not in answers[0]
    assert b"GET /last  connection,host ok" in answers[1]


def test_many_offers_in_one_piece_are_answered_in_their_order(echoing: Served) -> None:
    offers = [b"GET /%d HTTP/1.1\r\n" % n + H2C + b"\r\n" for n in range(200)]
    answers = echoing.answer_to(b"".join(offers) + CLOSING).split(b"HTTP/1.1 ")[1:]
    assert [answer.split()[-3] for answer in answers[:-1]] == [b"/%d" % n for n in range(200)]


def test_requests_in_one_piece_keep_their_bodies(echoing: Served) -> None:
    """A piece is parsed part by part: heads and bodies lie across the parts."""
    requests, expected = [], []
    for n, size in enumerate([0, 1, 4000, 4096, 5000, 70_000, 3, 0, 200_000, 12, 4090]):
        body = bytes([65 + n]) * size
        requests.append(b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (n, size))
        requests.append(body)
        expected.append(b"POST /%d " % n + body + b" content-length,host ok")
    answers = echoing.answer_to(b"".join(requests) + CLOSING).split(b"\r\n\r\n")[1:]
    assert [a.partition(b"HTTP/1.1 ")[0] for a in answers[:-1]] == expected


def test_what_waits_behind_a_request_is_not_parsed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand small requests fit into one piece: parsing all would hold up other callers."""
    made = 0

    class Counted(Exchange):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*arguments, **options)

    monkeypatch.setattr("ladle.server.transport.http.connection.Exchange", Counted)

    async def drive() -> None:
        app = Application()
        app.go_on.clear()
        connection = HttpConnection(app, Connections(most=1))
        connection.connection_made(Unread())
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000)
        assert made < 500
        app.go_on.set()

    asyncio.run(drive())


def test_a_body_may_wait_to_be_asked_for(echoing: Served) -> None:
    head = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with echoing.connect() as connection:
        connection.sendall(head)
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"12345" + CLOSING)
        assert b"POST /p 12345 " in read_all(connection)


def test_http_1_0_gets_nothing_before_the_answer(echoing: Served) -> None:
    head = b"POST /p HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    answer = echoing.answer_to(head, b"12345")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("trailer", [b"Connection: close", b"proxy-connection:close"])
def test_a_trailer_closes_no_connection_before_the_next_request_is_answered(
    echoing: Served, trailer: bytes
) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = echoing.answer_to(head + b"2\r\n12\r\n0\r\n" + trailer + b"\r\n\r\n" + GET + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"RFC 9110, 6.5.1" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


def test_a_trailer_of_another_name_is_passed_over(echoing: Served) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = echoing.answer_to(head + b"2\r\n12\r\n0\r\nX-Sum: 3\r\n\r\n" + CLOSING)
    assert b"POST /p 12 " in answer
    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_what_is_no_request_is_not_to_be_sent_again(served: Served) -> None:
    assert b"retry-after" not in served.answer_to(b"no request\r\n\r\n")


def test_what_comes_after_the_last_request_takes_no_answer_away(echoing: Served) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\n"
    answer = echoing.answer_to(head + b"Content-Length: 2\r\n\r\n12" + b"more\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"POST /p 12 " in answer


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2", b"x"])
def test_whatever_is_offered_the_answer_is_http_1(echoing: Served, protocol: bytes) -> None:
    head = b"GET /g HTTP/1.1\r\nHost: x\r\nConnection: upgrade, close\r\nUpgrade: "
    answer = echoing.answer_to(head + protocol + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"GET /g " in answer


def test_http_1_1_needs_a_host_and_http_1_0_does_not(echoing: Any) -> None:
    answer = echoing.answer_to(b"GET /a HTTP/1.1\r\nAccept: */*\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Expected a Host header" in answer
    answer = echoing.answer_to(b"GET /a HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert echoing.answer_to(b"GET /a HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    for version in (b"", b" HTTP/2.0", b" HTTP/0.9"):
        told = echoing.answer_to(b"GET /a" + version + b"\r\nHost: x\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 400 ")
    # with an offer to upgrade too, and after a request that is whole
    offer = b"GET /a HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    whole = b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = echoing.answer_to(whole + offer).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200", b"400"]


@pytest.mark.parametrize(
    "head", [b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_tunnels_and_http_2_are_refused_in_json(served: Served, head: bytes) -> None:
    answer = served.answer_to(head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/json" in answer
    assert b'{"error": "' in answer


def test_past_the_bound_of_connections_only_probes_are_answered() -> None:
    """Whoever connects and asks for nothing keeps no probe out."""
    served = Served(max_connections=2, always=["/livez"])
    with contextlib.ExitStack() as connected:
        for _ in range(2):
            connection = connected.enter_context(served.connect())
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            read_answer(connection)
        answer = served.answer_to(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"content-type: application/json" in answer
        assert b"--rest_api_max_connections" in answer
        probe = b"GET /livez?x=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert served.answer_to(probe).endswith(b"ok")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        read_answer(connection)  # whoever came in time is served as before
        for _ in range(2 * FOR_PROBES):
            connected.enter_context(served.connect())
            assert served.answer_to(probe).endswith(b"ok")
    served.transport.stop(0)


def test_without_descriptors_probes_are_answered_all_the_same() -> None:
    """Callers of another port may have taken them all."""
    served = Served(always=["/livez"])
    asking = [socket.socket() for _ in range(40)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/dev/fd"))
    taken: list[int] = []
    answers: list[bytes] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for n, connection in enumerate(asking):
            path = b"/other" if n % 10 == 9 else b"/livez"
            connection.settimeout(TIMEOUT_S)
            connection.connect(("127.0.0.1", served.port))
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            answers.append(read_all(connection))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in taken:
            os.close(number)
        for connection in asking:
            connection.close()
        served.transport.stop(0)
    statuses = [answer[9:12] for answer in answers]
    assert statuses == ([b"200"] * 9 + [b"503"]) * 4


def test_a_refusal_waits_for_the_answers_before_it() -> None:
    """The caller takes what comes first for the answer to what it sent first."""
    held = Served()
    held.app.go_on.clear()
    with held.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00 no request\r\n\r\n")
        assert held.app.entered.wait(TIMEOUT_S)
        held.app.go_on.set()
        answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    held.transport.stop(0)
    assert [answer[:3] for answer in answers] == [b"200", b"400"]
    assert answers[0].endswith(b"ok")


def test_a_body_that_is_broken_on_its_way_is_refused_at_once(echoing: Served) -> None:
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for last in (b"", b"Connection: close\r\n"):
        answer = echoing.answer_to(head[:-2] + last + b"\r\n", b"2\r\n12\r\n", b"no size\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")


def test_a_head_is_answered_without_the_body(served: Served) -> None:
    head, _, body = served.answer_to(b"HEAD" + GET[3:] + b"\r\n").partition(b"\r\n\r\n")
    assert b"content-length: 2\r\n" in head
    assert body == b""


def test_an_answer_has_its_date(served: Served) -> None:
    head = served.answer_to(GET + b"\r\n").partition(b"\r\n\r\n")[0].decode()
    (date,) = [line[6:] for line in head.splitlines() if line.startswith("date: ")]
    assert parsedate_to_datetime(date).tzinfo is not None


def test_a_query_is_no_part_of_the_path(echoing: Served) -> None:
    for target, path, query in (
        (b"/p?q=/x?y", b"/p", b"q=/x?y"),
        (b"http://host/p?q", b"/p", b"q"),
        (b"http://host", b"/", b""),
        (b"http://host:80?q", b"/", b"q"),
        (b"/p?q#f", b"/p", b"q"),
        (b"/%2Fp?", b"/%2Fp", b""),
    ):
        answer = echoing.answer_to(b"GET " + target + GET[5:] + b"\r\n")
        assert b"GET %b %b " % (path, query) in answer


@pytest.mark.parametrize(
    ("head", "hosts"),
    [
        (b"GET / HTTP/1.1\r\nHost: a:1\r\n", ["a:1"]),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n", ["b"]),
        (b"GET http://b:2 HTTP/1.1\r\nHost: a\r\n", ["b:2"]),
        (b"GET http://[::1]:2/ HTTP/1.1\r\nHost: a\r\n", ["[::1]:2"]),
        (b"GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: c\r\n", ["b", "b"]),
        (b"GET http://b/ HTTP/1.0\r\n", ["b"]),
        (b"GET / HTTP/1.0\r\n", []),
    ],
)
def test_the_host_of_the_target_counts_before_the_header(head: bytes, hosts: list[str]) -> None:
    """RFC 9112, 3.2.2: otherwise a foreign host could be asked for beside an allowed one."""

    async def answer(exchange: Exchange) -> None:
        listed = ",".join(exchange.headers.every("host"))
        exchange.respond(200, {"connection": "close"}, listed.encode())

    served = Served(answer)
    assert served.answer_to(head + b"\r\n").endswith(b"\r\n\r\n" + ",".join(hosts).encode())
    served.transport.stop(0)


class Splitting:
    """Answers with a header that would be two."""

    async def __call__(self, exchange: Exchange) -> None:
        exchange.respond(200, {"x": "1\r\nset-cookie: 2"}, b"ok")


def test_no_header_becomes_two() -> None:
    splitting = Served(Splitting())
    assert splitting.answer_to(GET + b"\r\n") == b""
    splitting.transport.stop(0)


class Unread(asyncio.Transport):
    """A transport whose peer reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = 0
        self.is_closed = False
        self.aborted = asyncio.Event()

    def write(self, data: Any) -> None:
        self.unsent += len(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.aborted.set()

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Memory(Unread):
    """A transport whose peer reads all, and sends nothing while it is asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_paused = False

    def write(self, data: Any) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


KINDS = {
    "bare": b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n",
    "body": b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345",
    "chunks": b"POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n12\r\n3\r\n345\r\n0\r\nTrailer: t\r\n\r\n",
    "upgrade": b"POST /%d HTTP/1.1\r\n" + H2C + b"Content-Length: 5\r\n\r\n12345",
}


@given(
    kinds=st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 200), min_size=1),
)
@settings(deadline=None)
def test_however_a_stream_is_cut_its_requests_are_answered_in_order(
    kinds: list[str], sizes: list[int]
) -> None:
    stream = b"".join(KINDS[kind] % n for n, kind in enumerate(kinds))

    async def drive() -> bytes:
        connection, memory = HttpConnection(Echo(), Connections(most=1)), Memory()
        connection.connection_made(memory)
        left = stream
        for size in itertools.cycle(sizes):
            if not left:
                break
            while memory.is_paused:
                await asyncio.sleep(0)
            connection.data_received(left[:size])
            left = left[size:]
        while memory.sent.count(b"HTTP/1.1 200 ") < len(kinds):
            await asyncio.sleep(0)
        return memory.sent

    sent = asyncio.run(asyncio.wait_for(drive(), TIMEOUT_S))
    answers = sent.split(b"HTTP/1.1 200 OK\r\n")[1:]
    asked = [
        b"%b /%d %b " % (KINDS[kind].split()[0], n, b"" if kind == "bare" else b"12345")
        for n, kind in enumerate(kinds)
    ]
    assert [
        answer.partition(b"\r\n\r\n")[2][: len(a)] for answer, a in zip(answers, asked, strict=True)
    ] == asked


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(deadline=None)
def test_no_bytes_do_more_than_end_their_connection(first: bytes, second: bytes) -> None:
    async def drive() -> None:
        for bytes_of in (first, KINDS["chunks"][:70] % 1 + first, KINDS["bare"] % 1 + first):
            connection, memory = HttpConnection(Echo(), Connections(most=1)), Memory()
            connection.connection_made(memory)
            for piece in (bytes_of, second):
                if not (memory.is_paused or memory.is_closed):
                    connection.data_received(piece)
            await asyncio.sleep(0)
            connection.connection_lost(None)

    asyncio.run(drive())


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_an_answer_that_nobody_reads_is_given_up(
    monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    monkeypatch.setattr("ladle.server.transport.http.connection._KEEP_ALIVE_S", 0.001)

    async def drive() -> None:
        connection, unread = HttpConnection(Application(), Connections(most=1)), Unread()
        connection.connection_made(unread)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n" + last + b"\r\n")
        await asyncio.wait_for(unread.aborted.wait(), TIMEOUT_S)
        assert unread.unsent > 2

    asyncio.run(drive())


def test_what_is_no_http_is_refused(served: Served) -> None:
    assert served.answer_to(b"\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_answers_are_not_held_back_by_nagle() -> None:
    """asyncio switches it off where it knows that the socket speaks TCP."""
    with bind(0, "rest_api_port") as bound:
        assert bound.proto == socket.IPPROTO_TCP


def test_two_servers_share_a_port_if_both_want_to() -> None:
    first, second = Served(reuse_port=True), HttpTransport(Application(), reuse_port=True)
    second.check(first.port)
    assert second.listen(first.port) == first.port
    with pytest.raises(AddressInUse):
        HttpTransport(Application()).check(first.port)
    for transport in (first.transport, second):
        transport.stop(0)


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"can't listen on port {port}: .*in use"):
            HttpTransport(Application()).listen(port)


def test_a_stop_lets_what_is_under_way_finish() -> None:
    served = Served()
    served.app.go_on.clear()
    with served.connect() as connection, served.connect() as idle:
        connection.sendall(GET + b"\r\n")
        assert served.app.entered.wait(TIMEOUT_S)
        stopping = threading.Thread(target=served.transport.stop, args=(TIMEOUT_S,))
        stopping.start()
        assert read_all(idle) == b""
        served.app.go_on.set()
        assert read_all(connection).endswith(b"ok")
        stopping.join()
    with pytest.raises(OSError, match="refused"):
        served.connect()


def test_a_stop_cuts_off_what_outlasts_its_grace() -> None:
    served = Served()
    served.app.go_on.clear()
    with served.connect() as connection:
        connection.sendall(GET + b"\r\n")
        assert served.app.entered.wait(TIMEOUT_S)
        served.transport.stop(0)
        served.app.go_on.set()
        assert b"ok" not in read_all(connection)


def test_a_server_that_never_started_can_be_stopped() -> None:
    transport = HttpTransport(Application())
    port = transport.listen(0)
    transport.stop(0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
