"""How many calls are taken, and what becomes of those that are too many, silent or too late."""

from __future__ import annotations

import queue
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server.transport.native.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    SETTINGS,
    Connection,
    frame,
    headers,
    message,
)
from transports import LimitedTransport, MakeTransport

from ladle.server.call import Call, NonBlocking, Streaming
from ladle.server.core.errors import ServingError
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.health import Health


@pytest.fixture
def serve(make_transport: MakeTransport) -> Iterator[Callable[..., int]]:
    """Serves methods with 128 places, and returns the port."""
    transports: list[LimitedTransport] = []

    def serve(methods: dict[str, Any], **options: Any) -> int:
        health = Health()
        health.set("", True)
        transport = make_transport({**methods, **health.methods}, max_threads=1, **options)
        transports.append(transport)
        port = transport.listen("127.0.0.1:0")
        transport.start()
        return port

    yield serve
    for transport in transports:
        transport.stop(0)


def test_streams_without_a_message_keep_nobody_from_health(serve: Callable[..., int]) -> None:
    """Headers cost nothing; with tokens on, anybody may still ask for health."""
    begun = threading.Semaphore(0)

    def begin(stream: Any) -> None:
        stream.receive(lambda _: None)
        begun.release()

    port = serve({"/a/S": Streaming(begin)})
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, held(channel, []) as streams:
        for _ in streams:
            assert begun.acquire(timeout=TIMEOUT_S)
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(200):
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stream_without_a_place_is_refused_with_push_back(serve: Callable[..., int]) -> None:
    """Those that have sent something keep their places."""
    received = threading.Semaphore(0)
    port = serve({"/a/S": Streaming(lambda s: s.receive(lambda _: received.release()))})
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, held(channel, [b""]) as streams:
        for _ in streams:
            assert received.acquire(timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError) as raised:
            next(channel.stream_stream("/a/S", None, None)(iter([]), timeout=TIMEOUT_S))

    assert refusal(raised.value)[0] == "UNAVAILABLE"
    sent = {item.key: str(item.value) for item in raised.value.trailing_metadata()}
    assert sent["grpc-retry-pushback-ms"] == "100"


@contextmanager
def held(channel: grpc.Channel, messages: list[bytes]) -> Iterator[list[Any]]:
    """As many streams as have places; each sends the messages, and then neither more nor an end."""
    ends = threading.Event()

    def send() -> Iterator[bytes]:
        yield from messages
        ends.wait(TIMEOUT_S)

    open_one: Any = channel.stream_stream("/a/S", None, None)
    streams = [open_one(send(), timeout=TIMEOUT_S) for _ in range(128)]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.cancel()
        ends.set()


def test_of_thousands_of_calls_at_once_on_one_connection_each_is_taken_or_told_when_to_come_back(
    serve: Callable[..., int],
) -> None:
    """gRPC itself would end those that it can't hand over as CANCELLED, or reset their streams."""
    port = serve({"/a/B": NonBlocking(lambda call: call.respond(b""))})
    outcomes: Counter[str] = Counter()
    ended = threading.Semaphore(0)

    def note(future: Any) -> None:
        later = dict(future.trailing_metadata()).get("grpc-retry-pushback-ms")
        outcomes[future.code().name + " later" * (later is not None)] += 1
        ended.release()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        for _ in range(6000):
            call.future(b"", timeout=TIMEOUT_S).add_done_callback(note)
        for _ in range(6000):
            assert ended.acquire(timeout=TIMEOUT_S)

    assert set(outcomes) <= {"OK", "UNAVAILABLE later"}


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_refused_unless_they_are_allowed(
    serve: Callable[..., int], algorithm: grpc.Compression
) -> None:
    """gRPC inflates them whole before anybody knows how large they are."""

    def size(call: Call) -> None:
        call.respond(str(len(call.request)).encode())

    def ask(port: int) -> bytes:
        with grpc.insecure_channel(f"127.0.0.1:{port}", compression=algorithm) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                "/a/B", None, None
            )
            return call(bytes(100_000), timeout=TIMEOUT_S)

    methods = {"/a/B": NonBlocking(size)}
    with pytest.raises(grpc.RpcError) as raised:
        ask(serve(methods))
    assert refusal(raised.value)[0] == "UNIMPLEMENTED"
    assert ask(serve(methods, compressed_requests=True)) == b"100000"


def test_what_still_runs_when_the_grace_is_over_is_unavailable(
    make_transport: MakeTransport,
) -> None:
    """Not CANCELLED, which callers don't send again."""
    came = threading.Semaphore(0)
    transport = make_transport({"/a/B": NonBlocking(lambda _: came.release())}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        held = call.future(b"", timeout=TIMEOUT_S)
        assert came.acquire(timeout=TIMEOUT_S)
        transport.stop(0)

        with pytest.raises(grpc.RpcError) as raised:
            held.result()
    assert refusal(raised.value) == (
        "UNAVAILABLE",
        "the server has stopped before the answer was there: ask another",
    )


def test_a_call_too_many_is_counted_by_its_reason(make_transport: MakeTransport) -> None:
    refused: queue.SimpleQueue[ServingError] = queue.SimpleQueue()
    transport = make_transport(
        {"/a/B": NonBlocking(lambda _: None)},
        max_threads=1,
        limits=Limits(1000, ByteBudget(1 << 20), lambda error, _: refused.put(error)),
    )
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        calls = [call.future(b"", timeout=TIMEOUT_S) for _ in range(129)]
        error = refused.get(timeout=TIMEOUT_S)
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "calls")
        for each in calls:
            each.cancel()
    transport.stop(0)


def test_answers_that_nobody_reads_keep_their_places(
    serve: Callable[..., int],
) -> None:
    """There are 128 places for each thread; without this, unread answers could fill the memory."""
    port = serve({"/a/B": NonBlocking(lambda call: call.respond(call.request))})
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    call_frames = b"".join(
        frame(HEADERS, END_HEADERS, stream, headers("/a/B"))
        + frame(DATA, END_STREAM, stream, message(b"never read"))
        for stream in range(1, 257, 2)
    )
    with Connection(port) as connection, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        connection.send(no_window + call_frames)
        answered = (kind for kind, *_ in connection.frames() if kind == HEADERS)
        for _ in range(128):
            next(answered)
        call: Any = channel.unary_unary("/a/B", None, None)
        with pytest.raises(grpc.RpcError) as raised:
            call(b"", timeout=TIMEOUT_S)
        code, text = refusal(raised.value)
        assert code == "UNAVAILABLE"
        assert "128 calls are under way" in text
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        again: Any = channel.unary_unary("/a/B", None, None)
        until(lambda: again.future(b"", timeout=TIMEOUT_S).exception() is None)
