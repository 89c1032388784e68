"""Refused calls on grpcio."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
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


def test_a_flood_of_refused_calls_takes_no_threads_from_others(
    call: Any, begun: queue.SimpleQueue[Stream]
) -> None:
    def threads() -> set[str]:
        return {
            each.name for each in threading.enumerate() if each.name.startswith(("grpc_", "refu"))
        }

    before = threads()
    refused = [call(iter([]), timeout=TIMEOUT_S) for _ in range(50)]
    for each in refused:
        with pytest.raises(grpc.RpcError) as raised:
            next(each)
        assert refusal(raised.value) == ("UNAUTHENTICATED", "expected a token")

    assert threads() == before
    assert begun.empty()
