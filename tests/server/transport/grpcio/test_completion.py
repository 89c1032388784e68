"""Calls without threads, on the parts of grpcio that they rest on."""

from __future__ import annotations

import gc
import queue
import threading

import grpc
from fakes import TIMEOUT_S, until

from ladle.server.call import Call, NonBlocking
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import ByteBudget, Limits
from ladle.server.transport.grpcio import completion
from ladle.server.transport.grpcio.completion import CompletionCall
from ladle.server.transport.grpcio.transport import GrpcioTransport

LIMIT = 1 << 20


def test_the_installed_grpcio_can_do_without_threads() -> None:
    assert completion.supported()


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
    transport = GrpcioTransport(
        {"/a/B": NonBlocking(hold)},
        max_threads=1,
        limits=Limits(LIMIT, budget, refused.put),
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
        kept = [c for c in gc.get_objects() if isinstance(c, CompletionCall)]
        assert sum(len(each.request) for each in kept) == LIMIT
        go_on.set()
        assert first.result(TIMEOUT_S) == b""
        assert refused.get(timeout=TIMEOUT_S).code is Code.CANCELLED
        assert call(b"3" * LIMIT, timeout=TIMEOUT_S) == b""
    transport.stop(TIMEOUT_S)
    assert handled == [b"1", b"3"]
