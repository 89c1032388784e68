"""Messages between supervisor and workers, as bytes that come in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.wiring.workers.frames import MAX_BYTES, Decoder, FrameError, Message, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
MESSAGES = st.builds(
    lambda fields, op: {**fields, "op": op}, st.dictionaries(st.text(max_size=5), JSON), st.text()
)


@given(st.lists(MESSAGES, max_size=5), st.lists(st.integers(1, 40)))
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    messages: list[Message], cuts: list[int]
) -> None:
    data = b"".join(map(encode, messages))
    decoder = Decoder()
    received = []
    for cut in cuts:
        received += decoder.feed(data[:cut])
        data = data[cut:]
    assert [*received, *decoder.feed(data)] == messages


@pytest.mark.parametrize(
    "data",
    [
        (MAX_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\2{]",
        b"\0\0\0\1\xff",
        b"\0\0\0\2[]",
        b"\0\0\0\2{}",
        b'\0\0\0\x08{"op":1}',
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="expected"):
        Decoder().feed(data)


def test_a_message_that_nobody_could_take_is_not_sent() -> None:
    with pytest.raises(FrameError, match="at most"):
        encode({"op": "x", "text": "a" * MAX_BYTES})


@given(st.binary(max_size=60))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    try:
        messages = Decoder().feed(data)
    except FrameError:
        return
    assert all(isinstance(message["op"], str) for message in messages)
