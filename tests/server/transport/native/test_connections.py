"""What callers on the wire may do, and what they get who do more."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal, until
from server.transport.native.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Connection,
    frame,
    headers,
    message,
)
from transports import TRANSPORTS, LimitedTransport, require

from ladle.server.call import Call, NonBlocking
from ladle.server.limits import ByteBudget, Limits

Start = Callable[..., tuple[LimitedTransport, int]]


def echo(call: Call) -> None:
    call.respond(call.request)


ECHO = NonBlocking(echo)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a transport that echoes, and returns it with its port."""
    require("native")
    started: list[LimitedTransport] = []

    def start(handler: Any = ECHO, **options: Any) -> tuple[LimitedTransport, int]:
        transport = TRANSPORTS["native"]({"/a/B": handler}, max_threads=1, **options)
        port = transport.listen("127.0.0.1:0")
        transport.start()
        started.append(transport)
        return transport, port

    yield start
    for transport in started:
        transport.stop()


def echoes(port: int) -> bool:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        return bool(call(b"well", timeout=TIMEOUT_S) == b"well")


def has_a_place(port: int) -> bool:
    """Whether a new connection is served; not as long as the server counts one that has ended."""
    try:
        return echoes(port)
    except grpc.RpcError:
        return False


def test_who_speaks_no_http2_is_hung_up_on(start: Start) -> None:
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as caller:
        caller.sendall(b"GET / HTTP/1.1")
        caller.sendall(b"\r\nHost: x\r\n\r\n"[:10])  # as many bytes as HTTP/2's greeting has
        assert caller.recv(1) == b""
    assert echoes(port)


def test_who_has_not_yet_spoken_does_not_hold_up_a_stop(start: Start) -> None:
    transport, port = start()
    with (
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as silent,
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as halfway,
    ):
        halfway.sendall(PREFACE[:5])
        assert echoes(port)
        transport.stop(10 * TIMEOUT_S)
        assert silent.recv(1) == b""


def test_a_connection_past_the_bound_is_closed_and_that_is_said(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    _, port = start(options=[("grpc.max_allowed_incoming_connections", 2)])
    with Connection(port) as first, Connection(port) as second:
        for connection in (first, second):
            assert connection.wait_for(SETTINGS)
        for _ in range(100):  # they hold no descriptors
            with (
                suppress(ConnectionError),
                socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as third,
            ):
                assert third.recv(1) == b""
        with pytest.raises(grpc.RpcError) as error:
            echoes(port)
        assert refusal(error.value)[0] == "UNAVAILABLE"
        until(lambda: caplog.messages)
        (line,) = caplog.messages
        assert "connections were turned away: there are as many as may be max=2" in line
    until(lambda: has_a_place(port))


def test_an_old_connection_is_asked_to_end(start: Start) -> None:
    _, port = start(options=[("grpc.max_connection_age_ms", 1)])
    with Connection(port) as connection:
        assert connection.wait_for(GOAWAY)


def test_who_stays_beyond_the_grace_of_an_old_connection_is_cut_off(start: Start) -> None:
    held: list[Call] = []
    over = threading.Event()

    def hold(call: Call) -> None:
        call.on_end(over.set)
        held.append(call)

    age = [("grpc.max_connection_age_ms", 500), ("grpc.max_connection_age_grace_ms", 1)]
    _, port = start(NonBlocking(hold), options=age)
    with Connection(port) as connection:
        connection.send(
            frame(HEADERS, END_HEADERS, 1, headers("/a/B"))
            + frame(DATA, END_STREAM, 1, message(b"x"))
        )
        assert over.wait(TIMEOUT_S)
        list(connection.frames())  # ends
    assert len(held) == 1


def test_a_lame_duck_sends_callers_away_and_takes_those_who_come(start: Start) -> None:
    transport, port = start()
    with Connection(port) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, headers("/a/B")))
        connection.send(frame(DATA, END_STREAM, 1, message(b"x")))
        connection.wait_for(DATA)
        transport.enter_lame_duck()
        assert connection.wait_for(GOAWAY)
    assert echoes(port)


def test_rapid_resets_end_the_connection(start: Start) -> None:
    _, port = start()
    with Connection(port) as connection:
        flood = b"".join(
            frame(HEADERS, END_HEADERS, stream, headers("/a/B"))
            + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(1, 4001, 2)
        )
        with suppress(OSError):
            connection.send(flood)
        connection.read_to_the_end()
    assert echoes(port)


def test_a_caller_may_give_up_many_calls_at_once(start: Start) -> None:
    """So it is where a busy machine has answered nobody for long: all deadlines pass."""
    _, port = start()
    with Connection(port) as connection:
        given_up = b"".join(
            frame(HEADERS, END_HEADERS, stream, headers("/a/B"))
            + frame(DATA, END_STREAM, stream, message(b"late"))
            + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
            for stream in range(1, 2001, 2)
        )
        connection.send(given_up)
        numbers = iter(range(2001, 9001, 2))

        def is_answered() -> bool:
            """Places are free once the calls that were given up have been looked at."""
            number = next(numbers)
            connection.send(
                frame(HEADERS, END_HEADERS, number, headers("/a/B"))
                + frame(DATA, END_STREAM, number, message(b"good"))
            )
            kinds = []
            for kind, flags, stream, _ in connection.frames():
                if stream == number:
                    kinds.append(kind)
                    if flags & END_STREAM and kind != DATA:
                        return DATA in kinds
            return False

        until(is_answered)


def test_headers_without_end_end_the_connection(start: Start) -> None:
    _, port = start()
    with Connection(port) as connection:
        connection.send(frame(HEADERS, 0, 1, headers("/a/B")))
        try:
            for _ in range(2000):
                connection.send(frame(CONTINUATION, 0, 1, b"\0\x01a\x40" + b"x" * 64))
        except OSError:
            pass  # it has hung up already
        list(connection.frames())  # ends
    assert echoes(port)


def test_more_metadata_than_allowed_fails_the_call_alone(start: Start) -> None:
    _, port = start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        with pytest.raises(grpc.RpcError):
            call(b"", metadata=(("key", "x" * (20 << 10)),), timeout=TIMEOUT_S)
        assert call(b"", metadata=(("key", "x" * (8 << 10)),), timeout=TIMEOUT_S) == b""


def until_headers(connection: Connection) -> list[tuple[int, int, int, bytes]]:
    frames = []
    for each in connection.frames():
        frames.append(each)
        if each[0] == HEADERS:
            break
    return frames


def test_a_length_is_refused_before_its_bytes_come(start: Start) -> None:
    budget = ByteBudget(1 << 30)
    _, port = start(limits=Limits(1000, budget))
    with Connection(port) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, headers("/a/B")))
        connection.send(frame(DATA, 0, 1, b"\0" + struct.pack(">I", 1001)))
        ends = [flags & END_STREAM for kind, flags, *_ in until_headers(connection)]
        assert ends[-1], "it is refused by its headers alone"
    assert budget.used == 0


def test_an_upload_counts_until_its_caller_goes(start: Start) -> None:
    budget = ByteBudget(1 << 30)
    refused: list[Exception] = []
    _, port = start(limits=Limits(1000, budget, lambda error, _: refused.append(error)))
    with Connection(port) as connection:
        connection.send(frame(HEADERS, END_HEADERS, 1, headers("/a/B")))
        connection.send(frame(DATA, 0, 1, message(bytes(1000))[:-1]))
        until(lambda: budget.used == 1000)
    until(lambda: budget.used == 0)
    until(lambda: len(refused) == 1)


def test_while_python_takes_nothing_calls_are_refused_past_the_bound(start: Start) -> None:
    """The queue between both sides does not grow without end."""
    came, go_on = threading.Event(), threading.Event()

    def block(call: Call) -> None:
        came.set()
        assert go_on.wait(TIMEOUT_S)
        call.respond(b"")

    _, port = start(NonBlocking(block))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)

        def begin_too_many() -> list[Any]:
            calls = [call.future(b"", timeout=TIMEOUT_S) for _ in range(200)]
            until(lambda: sum(each.done() for each in calls) >= 72)
            codes = {refusal(each.exception())[0] for each in calls if each.done()}
            assert codes == {"UNAVAILABLE"}
            return calls

        try:
            calls = begin_too_many()
            assert came.wait(TIMEOUT_S)
            # Those that Python has taken give their places back, and others come into the queue.
            for each in calls:
                each.cancel()
            # They leave at once, but their calls stay in the queue until Python takes them.
            for each in begin_too_many():
                each.cancel()
            late = call.future(b"", timeout=TIMEOUT_S)
            assert refusal(late.exception())[0] == "UNAVAILABLE"
        finally:
            go_on.set()

        def is_answered() -> bool:
            return call.future(b"", timeout=TIMEOUT_S).exception() is None

        until(is_answered)  # once Python has taken the calls whose callers left


def test_what_is_no_grpc_gets_a_status_of_http(start: Start) -> None:
    _, port = start()
    with Connection(port) as connection:
        block = headers("/a/B", content_type="text/plain").replace(b"application/grpc", b"")
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        assert connection.wait_for(HEADERS)
    assert echoes(port)
