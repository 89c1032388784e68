"""Calls of blocking and of other handlers behave alike, on real connections."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal
from transports import MakeTransport

from ladle.server.call import Call, Handler, NonBlocking
from ladle.server.core.errors import ServingError, Unavailable
from ladle.server.limits import ByteBudget, Limits
from ladle.server.rpc.health import Health

LIMIT = 1 << 20

Serve = Callable[[Callable[[Call], Any]], "grpc.UnaryUnaryMultiCallable[bytes, bytes]"]


@pytest.fixture(params=["non-blocking", "blocking"])
def serve(request: pytest.FixtureRequest, make_transport: MakeTransport) -> Iterator[Serve]:
    """Serves a handler, and returns how to call it; the budget holds two of the largest."""
    closing: list[Callable[[], object]] = []

    def serve(handler: Callable[[Call], Any]) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        method = NonBlocking(handler) if request.param == "non-blocking" else handler
        transport = make_transport(
            {"/a/B": method},
            max_threads=4,
            limits=Limits(LIMIT, ByteBudget(2 * LIMIT)),
            compressed_requests=True,
        )
        port = transport.listen("127.0.0.1:0")
        transport.start()
        channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
        )
        closing.extend([channel.close, lambda: transport.stop(TIMEOUT_S)])
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        return call

    yield serve
    for close in closing:
        close()


def echo(call: Call) -> None:
    call.respond(call.request)


def test_what_a_handler_answers_arrives(serve: Serve) -> None:
    call = serve(echo)

    assert [call(b"%d" % n, timeout=TIMEOUT_S) for n in range(50)] == [b"%d" % n for n in range(50)]
    assert call(b"", timeout=TIMEOUT_S) == b""
    large = bytes(LIMIT)
    assert call(large, timeout=TIMEOUT_S) == large


def test_a_refusal_has_its_code_and_message_and_when_to_come_back(serve: Serve) -> None:
    def refuse(call: Call) -> None:
        error = Unavailable("not now — später")
        error.retry_after_s = 0.25
        call.fail(error)

    with pytest.raises(grpc.RpcError) as raised:
        serve(refuse)(b"", timeout=TIMEOUT_S)

    assert refusal(raised.value) == ("UNAVAILABLE", "not now — später")
    sent = {item.key: str(item.value) for item in raised.value.trailing_metadata()}
    assert sent["grpc-retry-pushback-ms"] == "250"


def test_an_answer_may_come_later_from_another_thread(serve: Serve) -> None:
    def later(call: Call) -> None:
        threading.Thread(target=lambda: call.respond(b"late")).start()

    assert serve(later)(b"", timeout=TIMEOUT_S) == b"late"


def test_metadata_and_deadline_are_the_callers(serve: Serve) -> None:
    seen: list[tuple[str | None, str | None, bool]] = []

    def look(call: Call) -> None:
        seen.append((call.metadata("key"), call.metadata("none"), call.deadline is None))
        call.respond(b"")

    call = serve(look)
    call(b"", metadata=(("key", "value"),), timeout=TIMEOUT_S)
    call(b"")

    assert seen == [("value", None, False), (None, None, True)]


def test_a_call_tells_when_its_caller_goes(serve: Serve) -> None:
    came, gone = threading.Event(), threading.Event()
    calls: list[Call] = []

    def hold(call: Call) -> None:
        calls.append(call)
        call.on_end(gone.set)
        came.set()

    future = serve(hold).future(b"", timeout=TIMEOUT_S)
    assert came.wait(TIMEOUT_S)
    assert not gone.is_set()
    future.cancel()

    assert gone.wait(TIMEOUT_S)
    calls[0].respond(b"nobody reads this")


def test_a_call_tells_when_it_was_answered(serve: Serve) -> None:
    ended = threading.Event()

    def answer(call: Call) -> None:
        call.on_end(ended.set)
        call.respond(b"")

    serve(answer)(b"", timeout=TIMEOUT_S)

    assert ended.wait(TIMEOUT_S)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_too_large_a_request_is_refused_by_the_flags_name(
    serve: Serve, compression: grpc.Compression | None
) -> None:
    """Compressed or not: what counts is what it inflates to."""
    call = serve(echo)

    with pytest.raises(grpc.RpcError) as raised:
        call(bytes(LIMIT + 1), compression=compression, timeout=TIMEOUT_S)

    code, message = refusal(raised.value)
    assert code == "RESOURCE_EXHAUSTED"
    assert f"{LIMIT + 1} bytes, more than the {LIMIT} of --max_request_bytes" in message
    assert call(b"still here", timeout=TIMEOUT_S) == b"still here"


def test_a_gzip_bomb_does_not_inflate(serve: Serve) -> None:
    call = serve(echo)

    with pytest.raises(grpc.RpcError) as raised:
        call(bytes(64 << 20), compression=grpc.Compression.Gzip, timeout=TIMEOUT_S)

    assert refusal(raised.value)[0] == "RESOURCE_EXHAUSTED"
    assert call(b"still here", timeout=TIMEOUT_S) == b"still here"


def test_the_bytes_of_all_calls_are_bounded(serve: Serve) -> None:
    held: list[Call] = []
    both = threading.Semaphore(0)

    def hold(call: Call) -> None:
        if call.request:
            held.append(call)
            both.release()
        else:
            call.respond(b"")

    call = serve(hold)
    waiting = [call.future(bytes(LIMIT), timeout=TIMEOUT_S) for _ in range(2)]
    for _ in waiting:
        assert both.acquire(timeout=TIMEOUT_S)

    with pytest.raises(grpc.RpcError) as raised:
        call(b"x", timeout=TIMEOUT_S)
    code, message = refusal(raised.value)
    assert code == "RESOURCE_EXHAUSTED"
    assert f"{2 * LIMIT} bytes of requests are under way of at most {2 * LIMIT}" in message
    assert call(b"", timeout=TIMEOUT_S) == b""

    for one in held:
        one.respond(b"")
    for future in waiting:
        future.result(TIMEOUT_S)


def test_a_handler_that_fails_takes_nothing_with_it(serve: Serve) -> None:
    def fail(call: Call) -> None:
        if call.request:
            raise RuntimeError("boom")
        call.respond(b"")

    call = serve(fail)

    with pytest.raises(grpc.RpcError):
        call(b"x", timeout=TIMEOUT_S)
    assert call(b"", timeout=TIMEOUT_S) == b""


def test_a_non_blocking_handler_that_has_to_wait_gets_a_thread_for_that(
    make_transport: MakeTransport, transport_name: str
) -> None:
    """grpcio's call has one already."""
    threads: list[str] = []

    def blocking(call: Call) -> None:
        threads.append(threading.current_thread().name)
        call.respond(b"")

    def non_blocking(call: Call) -> Handler | None:
        return blocking

    transport = make_transport({"/a/B": NonBlocking(non_blocking)}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        assert call(b"", timeout=TIMEOUT_S) == b""
    transport.stop(TIMEOUT_S)
    assert threads[0].startswith("waiting" if transport_name == "native" else "grpc")


def test_non_blocking_calls_may_wait_up_to_128_for_each_that_there_is(
    make_transport: MakeTransport,
) -> None:
    """A slow model's callers wait without taking anything from those of another."""
    held: queue.SimpleQueue[Call] = queue.SimpleQueue()

    def hold(call: Call) -> None:
        if call.request == b"hold":
            held.put(call)
        else:
            call.respond(b"")

    transport = make_transport({"/a/B": NonBlocking(hold)}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        waiting = [call.future(b"hold", timeout=TIMEOUT_S) for _ in range(127)]
        calls = [held.get(timeout=TIMEOUT_S) for _ in waiting]
        assert call(b"fast", timeout=TIMEOUT_S) == b""
        waiting.append(call.future(b"hold", timeout=TIMEOUT_S))
        calls.append(held.get(timeout=TIMEOUT_S))
        with pytest.raises(grpc.RpcError) as raised:
            call(b"fast", timeout=TIMEOUT_S)
        assert refusal(raised.value)[0] == "UNAVAILABLE"
        for one in calls:
            one.respond(b"")
        for future in waiting:
            assert future.result(TIMEOUT_S) == b""
    transport.stop(TIMEOUT_S)


def test_a_stopping_transport_lets_calls_end(serve: Serve) -> None:
    """The fixture stops the transport, whose grace is long: it must not need all of it."""
    with pytest.raises(grpc.RpcError):
        serve(lambda call: call.fail(ServingError("no")))(b"", timeout=TIMEOUT_S)


def test_calls_share_the_threads_there_are_where_no_other_can_be_started(
    make_transport: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    held: list[Call] = []
    both = threading.Event()

    def hold(call: Call) -> None:
        held.append(call)
        both.wait(TIMEOUT_S)
        call.respond(b"")

    methods = {"/a/B": hold, "/a/C": echo, **Health().methods}
    transport = make_transport(methods, max_threads=4)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        slow: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        quick: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/C", None, None)
        check = "/grpc.health.v1.Health/Check"
        health: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(check, None, None)
        assert quick(b"1", timeout=TIMEOUT_S) == b"1"
        first = slow.future(b"", timeout=TIMEOUT_S)
        monkeypatch.setattr(threading.Thread, "start", no_room)
        later = [quick.future(b"2", timeout=TIMEOUT_S) for _ in range(3)]
        assert health(b"", timeout=TIMEOUT_S)
        both.set()

        assert first.result() == b""
        assert [each.result() for each in later] == [b"2"] * 3
        monkeypatch.undo()
    transport.stop(TIMEOUT_S)


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has policies")
def test_on_a_busy_machine_native_calls_wait_no_longer_than_others(
    make_transport: MakeTransport, transport_name: str
) -> None:
    """grpcio's threads yield when they are woken, or they would stop a batch for each packet."""

    def policy(call: Call) -> None:
        call.respond(b"%d" % os.sched_getscheduler(0))

    transport = make_transport({"/a/B": NonBlocking(policy)}, max_threads=1)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/a/B", None, None)
        answer = call(b"", timeout=TIMEOUT_S)
    transport.stop()

    expected = os.SCHED_OTHER if transport_name == "native" else os.SCHED_BATCH
    assert answer == b"%d" % expected
