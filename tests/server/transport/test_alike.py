"""Both transports answer the same traffic alike: messages, statuses, trailers, order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S
from hypothesis import given, settings
from hypothesis import strategies as st
from transports import TRANSPORTS, require

from ladle.server.call import Call, Methods, NonBlocking, Stream, Streaming
from ladle.server.core.errors import Code, ServingError
from ladle.server.limits import ByteBudget, Limits

LIMIT = 100_000


def failing(message: bytes) -> ServingError | None:
    """The failure that a message asks for: a code in its first byte, and a text."""
    if not message or not 1 <= message[0] <= 16:
        return None
    error = ServingError(message[1:200].decode("utf-8", "replace"), Code(message[0]))
    error.retry_after_s = len(message) / 1000 if len(message) % 2 else None
    return error


def answer(call: Call) -> None:
    error = failing(call.request)
    if error is not None:
        call.fail(error)
    else:
        key = call.metadata("key") or ""
        call.respond(call.request + key.encode())


class Echo:
    """A stream that sends back what it gets, until it gets a failure."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._next()

    def _next(self) -> None:
        self._stream.receive(self._received)

    def _received(self, message: bytes | None) -> None:
        if message is None:
            self._stream.end()
        elif (error := failing(message)) is not None:
            self._stream.end(error)
        else:
            self._stream.send(message, self._next)


def begin(stream: Stream) -> None:
    Echo(stream)


METHODS: Methods = {
    "/a/Prompt": NonBlocking(answer),
    "/a/Blocking": answer,
    "/a/Stream": Streaming(begin),
}


@pytest.fixture(scope="module")
def channels() -> Iterator[list[grpc.Channel]]:
    """A channel to a server of each transport."""
    require("native")
    transports = [
        make(
            METHODS,
            max_threads=2,
            limits=Limits(LIMIT, ByteBudget(1 << 30)),
            compressed_requests=True,
        )
        for make in TRANSPORTS.values()
    ]
    ports = [transport.listen("127.0.0.1:0") for transport in transports]
    for transport in transports:
        transport.start()
    opened = [grpc.insecure_channel(f"127.0.0.1:{port}") for port in ports]
    yield opened
    for channel in opened:
        channel.close()
    for transport in transports:
        transport.stop(TIMEOUT_S)


def outcome(channel: grpc.Channel, path: str, messages: list[bytes], **options: Any) -> Any:
    """All that a caller gets: answers in their order, and then status, text and trailers."""
    call: Any = channel.stream_stream(path, None, None)
    answers: list[bytes] = []
    under_way = call(iter(messages), timeout=TIMEOUT_S, **options)
    with contextlib.suppress(grpc.RpcError):
        answers.extend(under_way)
    trailers = {item.key: str(item.value) for item in under_way.trailing_metadata() or ()}
    return answers, under_way.code(), under_way.details(), trailers


MESSAGES = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, LIMIT + 9), st.just(77)),
)
COMPRESSIONS = st.sampled_from([None, grpc.Compression.Gzip, grpc.Compression.Deflate])
# Printable ASCII, as gRPC's metadata is, without spaces at its ends.
KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@settings(deadline=None, max_examples=60)
@given(
    path=st.sampled_from(["/a/Prompt", "/a/Blocking", "/a/Nothing", "/a"]),
    message=MESSAGES,
    compression=COMPRESSIONS,
    key=KEYS,
)
def test_unary_calls(
    channels: list[grpc.Channel], path: str, message: bytes, compression: Any, key: str
) -> None:
    first, second = (
        outcome(channel, path, [message], compression=compression, metadata=(("key", key),))
        for channel in channels
    )
    assert first == second


@settings(deadline=None, max_examples=60)
@given(
    messages=st.lists(st.binary(max_size=2000), max_size=8),
    compression=COMPRESSIONS,
)
def test_streams(channels: list[grpc.Channel], messages: list[bytes], compression: Any) -> None:
    first, second = (
        outcome(channel, "/a/Stream", messages, compression=compression) for channel in channels
    )
    assert first == second


def test_a_unary_call_without_a_message(channels: list[grpc.Channel]) -> None:
    first, second = (outcome(channel, "/a/Prompt", []) for channel in channels)
    assert first == second
