"""A process and its channel, as the supervisor has them."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fakes import TIMEOUT_S

from ladle.server.wiring.workers.frames import Decoder, FrameError, Message, encode
from ladle.server.wiring.workers.supervising.link import Link


class Child:
    """A process that does nothing, and both ends of a channel to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
        )
        self.selector = selectors.DefaultSelector()
        ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(TIMEOUT_S)
        self.link = Link(self.process, ours, self.selector, key=1, max_unread_bytes=9 << 20)

    def waits_for(self) -> int:
        """The events of the channel that the selector waits for."""
        (channel,) = self.selector.get_map().values()
        return channel.events

    def end(self) -> int:
        """Wait for its end, and return its wait status."""
        self.process.kill()
        _, status = os.waitpid(self.process.pid, 0)
        self.link.reaped(status)
        return status

    def close(self) -> None:
        self.theirs.close()
        self.link.rest()
        self.selector.close()
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child()
    yield child
    child.close()


def test_messages_go_both_ways(child: Child) -> None:
    assert child.link.send({"op": "drain"})
    assert Decoder().feed(child.theirs.recv(1000)) == [{"op": "drain"}]
    assert child.link.receive() == []
    child.theirs.sendall(encode({"op": "up"}))
    assert child.link.receive() == [{"op": "up"}]


def test_more_than_a_channel_holds_is_sent_as_room_comes(child: Child) -> None:
    sent: Message = {"op": "x", "text": "a" * (8 << 20)}
    assert child.link.send(sent)
    assert child.waits_for() == selectors.EVENT_READ | selectors.EVENT_WRITE
    decoder, received = Decoder(), list[Message]()
    while not received:
        received += decoder.feed(child.theirs.recv(1 << 20))
        child.link.flush()
    assert received == [sent]
    assert child.waits_for() == selectors.EVENT_READ


def test_one_that_reads_nothing_gets_no_more(child: Child) -> None:
    message: Message = {"op": "x", "text": "a" * (4 << 20)}
    assert [child.link.send(message) for _ in range(6)] == [True] * 3 + [False] * 3


def test_one_whose_channel_ends_is_killed_and_gets_nothing(child: Child) -> None:
    child.theirs.close()
    assert child.link.receive() is None
    assert child.process.wait(TIMEOUT_S) == -signal.SIGKILL
    assert not child.link.send({"op": "drain"})


def test_one_that_writes_no_message_is_killed(child: Child) -> None:
    child.theirs.sendall(b"\0\0\0\2{]")
    with pytest.raises(FrameError):
        child.link.receive()
    assert child.process.wait(TIMEOUT_S) == -signal.SIGKILL


def test_the_last_words_of_one_that_has_ended_are_read_and_its_id_is_left_alone(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    child.theirs.sendall(encode({"op": "refused"}) + encode({"op": "metrics"}))
    child.theirs.close()
    child.end()

    def kill(pid: int, number: int) -> None:
        pytest.fail(f"{pid} may be another process by now")

    monkeypatch.setattr(os, "kill", kill)
    assert [message["op"] for message in child.link.rest()] == ["refused", "metrics"]
    child.link.kill()
    assert child.link.rest() == []
