"""How many calls are taken, and what becomes of those that send no message."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from fakes import PATIENCE_S, refusal
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.call import Call, NonBlocking, Streaming
from ladle.server.core.errors import ServingError
from ladle.server.rpc.health import Health
from ladle.server.transport.grpcio.admission import MESSAGE_TIMEOUT_S, Admission
from ladle.server.transport.grpcio.transport import GrpcioTransport


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeCall:
    """A call that is over as soon as it is ended."""

    def __init__(self) -> None:
        self.error: ServingError | None = None
        self._ended: list[Callable[[], None]] = []

    def finish(self, message: bytes | None, error: ServingError | None) -> None:
        if self.error is None:
            self.error = error
            self.end()

    def on_end(self, callback: Callable[[], None]) -> None:
        if self.error is not None:
            callback()
        else:
            self._ended.append(callback)

    def end(self) -> None:
        ended, self._ended = self._ended, []
        for callback in ended:
            callback()


def test_what_finds_no_place_is_told_when_to_come_back() -> None:
    refused: list[ServingError] = []
    admission = Admission(1, refused.append)
    first, second = FakeCall(), FakeCall()

    assert admission.admit(first)
    assert not admission.admit(second)
    assert second.error is not None
    assert second.error.code.name == "UNAVAILABLE"
    assert second.error.retry_after_s == 0.1
    assert "1 calls are under way already" in second.error.message
    assert refused == [second.error]
    assert second.error.reason == "calls"

    first.end()
    assert admission.admit(FakeCall())


def test_a_call_without_a_message_is_ended_in_time_and_no_other() -> None:
    time = Time()
    refused: list[ServingError] = []
    admission = Admission(10, refused.append, clock=time)
    silent, speaking, late = FakeCall(), FakeCall(), FakeCall()
    admission.admit(silent)
    admission.admit(speaking)
    admission.received(speaking)
    time.now = 1
    admission.admit(late)

    time.now = MESSAGE_TIMEOUT_S
    admission.end_silent()
    assert silent.error is not None
    assert silent.error.code.name == "DEADLINE_EXCEEDED"
    assert silent.error.message == "expected a request message within 30 s, got none"
    assert refused == [silent.error]
    assert speaking.error is None
    assert late.error is None
    assert admission.under_way == 2


def test_a_silent_call_gives_its_place_to_the_next_one() -> None:
    time = Time()
    admission = Admission(2, clock=time)
    silent, speaking, newer = FakeCall(), FakeCall(), FakeCall()
    admission.admit(silent)
    admission.admit(speaking)
    admission.received(speaking)
    time.now = 0.5
    assert not admission.admit(FakeCall()), "it may still be on its way"

    time.now = 1
    assert admission.admit(newer)
    assert silent.error is not None
    assert speaking.error is None
    assert not admission.admit(FakeCall())


@given(st.lists(st.sampled_from(["come", "speak", "end", "wait", "sweep"])), st.integers(1, 4))
def test_there_are_never_more_than_the_most_and_each_is_counted_once(
    steps: list[str], most: int
) -> None:
    time = Time()
    admission = Admission(most, clock=time)
    alive: list[FakeCall] = []
    for step in steps:
        if step == "come":
            call = FakeCall()
            if admission.admit(call):
                alive.append(call)
        elif step == "wait":
            time.now += 0.7
        elif step == "sweep":
            admission.end_silent()
        elif alive and step == "speak":
            admission.received(alive[0])
        elif alive:
            alive.pop(0).end()
        alive = [call for call in alive if call.error is None]
        assert admission.under_way == len(alive) <= most


@pytest.fixture
def serve() -> Iterator[Callable[..., int]]:
    """Serves methods with 128 places, and returns the port."""
    transports: list[GrpcioTransport] = []

    def serve(methods: dict[str, Any], **options: Any) -> int:
        health = Health()
        health.set("", True)
        transport = GrpcioTransport({**methods, **health.methods}, max_threads=1, **options)
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
    wait = threading.Event()

    def nothing() -> Iterator[bytes]:
        wait.wait(PATIENCE_S)
        yield from ()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        open_one: Any = channel.stream_stream("/a/S", None, None)
        streams = [open_one(nothing(), timeout=PATIENCE_S) for _ in range(128)]
        for _ in streams:
            assert begun.acquire(timeout=PATIENCE_S)
        with pytest.raises(grpc.RpcError) as raised:
            next(open_one(iter([]), timeout=PATIENCE_S))
        assert refusal(raised.value)[0] == "UNAVAILABLE"
        sent = {item.key: str(item.value) for item in raised.value.trailing_metadata()}
        assert sent["grpc-retry-pushback-ms"] == "100"

        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(200):
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for stream in streams:
            stream.cancel()
        wait.set()


def test_thousands_of_calls_at_once_on_one_connection_are_all_answered(
    serve: Callable[..., int],
) -> None:
    """gRPC itself would end those that it can't hand over as CANCELLED."""
    port = serve({"/a/B": NonBlocking(lambda call: call.respond(b""))})
    outcomes: Counter[str] = Counter()
    ended = threading.Semaphore(0)

    def note(future: Any) -> None:
        outcomes[future.code().name] += 1
        ended.release()

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        for _ in range(6000):
            call.future(b"", timeout=PATIENCE_S).add_done_callback(note)
        for _ in range(6000):
            assert ended.acquire(timeout=PATIENCE_S)

    assert set(outcomes) <= {"OK", "UNAVAILABLE"}


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
            return call(bytes(100_000), timeout=PATIENCE_S)

    methods = {"/a/B": NonBlocking(size)}
    with pytest.raises(grpc.RpcError) as raised:
        ask(serve(methods))
    assert refusal(raised.value)[0] == "UNIMPLEMENTED"
    assert ask(serve(methods, compressed_requests=True)) == b"100000"


def test_what_still_runs_when_the_grace_is_over_is_unavailable() -> None:
    """Not CANCELLED, which callers don't send again."""
    came = threading.Semaphore(0)
    transport = GrpcioTransport({"/a/B": NonBlocking(lambda _: came.release())}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        held = call.future(b"", timeout=PATIENCE_S)
        assert came.acquire(timeout=PATIENCE_S)
        transport.stop(0)

        with pytest.raises(grpc.RpcError) as raised:
            held.result()
    assert refusal(raised.value) == (
        "UNAVAILABLE",
        "the server has stopped before the answer was there: ask another",
    )
