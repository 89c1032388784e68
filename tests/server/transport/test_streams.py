"""Streams without threads, on real connections."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal
from transports import MakeTransport

from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import Code, ServingError, Unauthenticated


@pytest.fixture
def begun() -> queue.SimpleQueue[Stream]:
    """The streams that have begun."""
    return queue.SimpleQueue()


@pytest.fixture
def call(begun: queue.SimpleQueue[Stream], make_transport: MakeTransport) -> Iterator[Any]:
    """Opens a stream; a caller without a token is refused."""

    def gate(_path: str, authorization: str | None) -> None:
        if authorization is None:
            raise Unauthenticated("expected a token")

    transport = make_transport({"/a/B": Streaming(begun.put)}, max_threads=1, gate=gate)
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_stream("/a/B", None, None)
    transport.stop(TIMEOUT_S)


TOKEN = (("authorization", "token"),)


def test_without_a_thread_to_be_had_a_stream_ends_and_may_come_again(
    call: Any, begun: queue.SimpleQueue[Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    answers = call(iter([]), timeout=TIMEOUT_S, metadata=TOKEN)
    stream = begun.get(timeout=TIMEOUT_S)
    with monkeypatch.context() as patched:
        patched.setattr(ThreadPoolExecutor, "submit", no_room)
        stream.in_thread(lambda: None)

    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    assert refusal(raised.value) == (
        "UNAVAILABLE",
        "no thread can take the request: can't start new thread; try again",
    )


def test_a_caller_who_has_finished_is_told_of(call: Any, begun: queue.SimpleQueue[Stream]) -> None:
    told: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = call(iter([]), timeout=TIMEOUT_S, metadata=TOKEN)
    stream = begun.get(timeout=TIMEOUT_S)
    stream.receive(told.put)

    assert told.get(timeout=TIMEOUT_S) is None
    stream.end(ServingError("enough", Code.ABORTED))
    with pytest.raises(grpc.RpcError) as raised:
        next(answers)
    assert refusal(raised.value) == ("ABORTED", "enough")


def test_a_caller_who_has_finished_still_gets_what_comes_later(
    call: Any, begun: queue.SimpleQueue[Stream]
) -> None:
    told: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = call(iter([b"one"]), timeout=TIMEOUT_S, metadata=TOKEN)
    stream = begun.get(timeout=TIMEOUT_S)
    stream.receive(told.put)
    assert told.get(timeout=TIMEOUT_S) == b"one"
    stream.receive(told.put)
    assert told.get(timeout=TIMEOUT_S) is None

    sent: queue.SimpleQueue[None] = queue.SimpleQueue()
    for message in (b"first", b"second"):
        stream.send(message, lambda: sent.put(None))
        assert next(answers) == message
        sent.get(timeout=TIMEOUT_S)
    stream.end()
    assert list(answers) == []
