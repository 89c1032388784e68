from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from fakes import PATIENCE_S, refusal, until
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ladle.server.transport import health
from ladle.server.transport.grpcio import GrpcioTransport

SERVING = health_pb2.HealthCheckResponse.SERVING
Start = Callable[[], tuple[GrpcioTransport, Any]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a server that is well, and returns it with a stub of its health service."""
    closing: list[Callable[[], object]] = []

    def start() -> tuple[GrpcioTransport, Any]:
        transport = GrpcioTransport({}, max_threads=1)
        port = transport.listen("127.0.0.1:0")
        transport.start()
        transport.health.set("", True)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        closing.extend([channel.close, lambda: transport.stop(PATIENCE_S)])
        return transport, health_pb2_grpc.HealthStub(channel)

    yield start
    for close in closing:
        close()


def ask(stub: Any) -> Any:
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S).status


def watch(stub: Any) -> Any:
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)


def test_watchers_are_bounded_and_give_up_their_places(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs a token to watch."""
    monkeypatch.setattr(health, "_MAX_WATCHERS", 2)
    transport, stub = start()
    watching = [watch(stub) for _ in range(2)]
    assert [next(each).status for each in watching] == [SERVING] * 2

    with pytest.raises(grpc.RpcError) as raised:
        next(watch(stub))
    assert refusal(raised.value)[0] == "RESOURCE_EXHAUSTED"
    assert ask(stub) == SERVING

    watching[0].cancel()
    until(lambda: transport.health._servicer._watchers == 1)
    assert next(watch(stub)).status == SERVING
    watching[1].cancel()


def test_two_servers_in_a_process_have_threads_of_their_own(start: Start) -> None:
    _, first = start()
    second, _ = start()
    second.health._pool.shutdown()

    assert ask(first) == SERVING
    watching = watch(first)
    assert next(watching).status == SERVING
    watching.cancel()
