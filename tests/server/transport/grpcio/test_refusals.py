"""Refused calls on grpcio."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal

from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import Unauthenticated
from ladle.server.transport.grpcio.transport import GrpcioTransport


@pytest.fixture
def begun() -> queue.SimpleQueue[Stream]:
    """The streams that have begun."""
    return queue.SimpleQueue()


@pytest.fixture
def call(begun: queue.SimpleQueue[Stream]) -> Iterator[Any]:
    """Opens a stream; a caller without a token is refused."""

    def gate(_path: str, authorization: str | None) -> None:
        if authorization is None:
            raise Unauthenticated("expected a token")

    transport = GrpcioTransport({"/a/B": Streaming(begun.put)}, max_threads=1, gate=gate)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream("/a/B", None, None)
    transport.stop(TIMEOUT_S)


def test_a_flood_of_refused_calls_makes_one_refusal(
    call: Any, begun: queue.SimpleQueue[Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    make = ThreadPoolExecutor.__init__

    def counting(pool: ThreadPoolExecutor, *given: Any, **options: Any) -> None:
        made.append(pool)
        make(pool, *given, **options)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", counting)
    for _ in range(5):
        with pytest.raises(grpc.RpcError) as raised:
            next(call(iter([]), timeout=TIMEOUT_S))
        assert refusal(raised.value) == ("UNAUTHENTICATED", "expected a token")

    assert len(made) == 1
    assert begun.empty()
