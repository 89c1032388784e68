"""One worker's process, and the supervisor's end of its channel. Nothing here blocks."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess

from ladle.server.wiring.workers.frames import Decoder, FrameError, Message, encode

_READ_AT_ONCE = 1 << 16
# What may wait to be read by one worker. One that reads nothing hangs, and gets no more.
_MAX_UNREAD_BYTES = 128 << 20


class Link:
    """Lives in one thread. The selector says when to call `flush` and `receive`."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        channel: socket.socket,
        selector: selectors.BaseSelector,
        key: int,
        *,
        max_unread_bytes: int = _MAX_UNREAD_BYTES,
    ) -> None:
        """Take a process.

        Args:
            process: the process.
            channel: this end of its channel.
            selector: gets the channel, until it ends.
            key: what the channel is registered under.
            max_unread_bytes: with so much that the worker has not read it gets no more.
        """
        self._process = process
        self._channel: socket.socket | None = channel
        self._selector = selector
        self._key = key
        self._max_unread_bytes = max_unread_bytes
        self._decoder = Decoder()
        self._unsent = bytearray()
        channel.setblocking(False)
        selector.register(channel, selectors.EVENT_READ, key)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: Message) -> bool:
        """Have the worker get a message; False if it can't have it.

        Raises:
            FrameError: It is too large.
        """
        if self._channel is None or len(self._unsent) > self._max_unread_bytes:
            return False
        self._unsent += encode(message)
        self.flush()
        return True

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        if self._channel is None:
            return
        try:
            while self._unsent:
                sent = self._channel.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # that it ends is noticed by what it no longer writes
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._channel, events, self._key)

    def receive(self) -> list[Message] | None:
        """Return what the worker wrote; None once it can write no more.

        A process without a channel is killed: it ends already, or can't be reached any more.

        Raises:
            FrameError: It wrote what is no message.
        """
        if self._channel is None:
            return None
        try:
            data = self._channel.recv(_READ_AT_ONCE)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if data:
            try:
                return self._decoder.feed(data)
            except FrameError:
                self._abandon()
                raise
        self._abandon()
        return None

    def rest(self) -> list[Message]:
        """Return what a process that has ended wrote last, and close its channel."""
        messages: list[Message] = []
        with contextlib.suppress(FrameError):
            while some := self.receive():
                messages += some
        self._close()
        return messages

    def kill(self) -> None:
        """End the process, unless somebody has waited for it already."""
        # Popen's own would wait for one that has ended, and take its status from who reaps it.
        if self._process.returncode is None:
            os.kill(self._process.pid, signal.SIGKILL)

    def reaped(self, status: int) -> None:
        """Take note of the wait status of the process: its id is another's from now on."""
        self._process.returncode = os.waitstatus_to_exitcode(status)

    def wait(self, timeout_s: float) -> None:
        """Block until the process has ended, or the time has passed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def _abandon(self) -> None:
        self._close()
        self.kill()

    def _close(self) -> None:
        if self._channel is not None:
            self._selector.unregister(self._channel)
            self._channel.close()
            self._channel = None
