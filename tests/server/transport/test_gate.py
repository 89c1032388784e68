"""A gate is asked of every call, whatever it is to, before its message is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal
from transports import MakeTransport

from ladle.server.call import Call, NonBlocking, Stream, Streaming
from ladle.server.core.errors import Unauthenticated
from ladle.server.limits import ByteBudget, Limits

TOKEN = (("authorization", "token"),)
NO_TOKEN = ("UNAUTHENTICATED", "expected a token")


def gate(path: str, authorization: str | None) -> None:
    if authorization == "crash":
        raise RuntimeError("a fault of the gate's")
    if authorization != "token":
        raise Unauthenticated("expected a token")


def echo(call: Call) -> None:
    call.respond(call.request)


def end(stream: Stream) -> None:
    stream.end()


@pytest.fixture
def channel(make_transport: MakeTransport) -> Iterator[grpc.Channel]:
    """A channel to a server with a gate, which takes messages of 10 bytes."""
    transport = make_transport(
        {"/a/Prompt": NonBlocking(echo), "/a/Blocking": echo, "/a/Stream": Streaming(end)},
        max_threads=1,
        limits=Limits(10, ByteBudget(1 << 20)),
        gate=gate,
    )
    port = transport.listen("127.0.0.1:0")
    transport.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    transport.stop(TIMEOUT_S)


@pytest.mark.parametrize("path", ["/a/Prompt", "/a/Blocking"])
def test_who_has_a_token_is_let_through(channel: grpc.Channel, path: str) -> None:
    call: Any = channel.unary_unary(path, None, None)
    assert call(b"hello", metadata=TOKEN, timeout=TIMEOUT_S) == b"hello"


def test_streams_are_let_through(channel: grpc.Channel) -> None:
    call: Any = channel.stream_stream("/a/Stream", None, None)
    assert list(call(iter([]), metadata=TOKEN, timeout=TIMEOUT_S)) == []


@pytest.mark.parametrize("path", ["/a/Prompt", "/a/Blocking", "/a/Stream", "/a/Nothing"])
def test_nobody_else_learns_what_there_is(channel: grpc.Channel, path: str) -> None:
    """Nor that the message is too large, as nobody reads it."""
    call: Any = channel.stream_stream(path, None, None)
    with pytest.raises(grpc.RpcError) as raised:
        list(call(iter([bytes(1000)]), timeout=TIMEOUT_S))
    assert refusal(raised.value) == NO_TOKEN


def test_a_gate_that_fails_lets_nobody_through(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/a/Prompt", None, None)
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", metadata=(("authorization", "crash"),), timeout=TIMEOUT_S)
    assert refusal(raised.value) == ("INTERNAL", "the server failed on this request")
