"""Which calls need a thread, and what becomes of them where there is none."""

from __future__ import annotations

import gc
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fakes import TIMEOUT_S, refusal, until
from transports import TRANSPORTS, require

from ladle.server.call import Call, Handler, NonBlocking
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import ByteBudget, Limits

LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def _native() -> None:
    require("native")


def calls_of_transports() -> list[Call]:
    """The calls with a message that Python's side of any transport holds."""
    return [
        each
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("ladle.server.transport")
        and hasattr(each, "request")
    ]


def echo(call: Call) -> None:
    call.respond(call.request)


def test_a_large_call_whose_caller_goes_before_there_is_a_thread_is_not_handled() -> None:
    """Nor does its message stay, once its bytes are given back."""
    came, go_on = threading.Semaphore(0), threading.Event()
    handled: list[bytes] = []
    refused: queue.SimpleQueue[ServingError] = queue.SimpleQueue()

    def hold(call: Call) -> None:
        handled.append(call.request[:1])
        came.release()
        assert go_on.wait(TIMEOUT_S)
        call.respond(b"")

    budget = ByteBudget(1 << 62)
    transport = TRANSPORTS["native"](
        {"/a/B": NonBlocking(hold)},
        max_threads=1,
        limits=Limits(LIMIT, budget, lambda error, _: refused.put(error)),
    )
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        first = call.future(b"1" * LIMIT, timeout=TIMEOUT_S)
        assert came.acquire(timeout=TIMEOUT_S)
        gone = call.future(b"2" * LIMIT, timeout=TIMEOUT_S)
        until(lambda: budget.used == 2 * LIMIT)
        gone.cancel()
        until(lambda: budget.used == LIMIT)
        assert sum(len(call.request) for call in calls_of_transports()) <= LIMIT
        go_on.set()
        assert first.result(TIMEOUT_S) == b""
        assert refused.get(timeout=TIMEOUT_S).code is Code.CANCELLED
        assert call(b"3" * LIMIT, timeout=TIMEOUT_S) == b""
    transport.stop(TIMEOUT_S)
    assert handled == [b"1", b"3"]


def test_without_a_thread_to_be_had_a_call_is_refused_and_the_server_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails where calls begin would otherwise end gRPC's polling, and so all calls."""

    def no_room(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    def wait_for_model(call: Call) -> Handler | None:
        if call.request == b"wait":
            return echo
        echo(call)
        return None

    transport = TRANSPORTS["native"](
        {"/a/B": NonBlocking(wait_for_model)},
        max_threads=1,
        limits=Limits(LIMIT, ByteBudget(LIMIT)),
    )
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/B", None, None)
        with monkeypatch.context() as patched:
            patched.setattr(ThreadPoolExecutor, "submit", no_room)
            for request in (bytes(LIMIT), b"wait"):
                with pytest.raises(grpc.RpcError) as raised:
                    call(request, timeout=TIMEOUT_S)
                assert refusal(raised.value)[0] == "UNAVAILABLE"
        assert call(b"small", timeout=TIMEOUT_S) == b"small"
        assert call(bytes(LIMIT), timeout=TIMEOUT_S) == bytes(LIMIT), "its bytes were given back"
    transport.stop(TIMEOUT_S)
