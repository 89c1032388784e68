"""A worker's end of the control channel. What comes is handled in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

from ladle.server.wiring.workers.frames import Decoder, FrameError, Message, encode

logger = logging.getLogger(__name__)

_READ_AT_ONCE = 1 << 16


class Channel:
    """Messages to and from the supervisor. Order of calls: `first`, `start`, `send` in between."""

    def __init__(self, connected: socket.socket) -> None:
        """Take a connected socket, which blocks."""
        self._socket = connected
        self._decoder = Decoder()
        self._waiting: list[Message] = []
        self._sending = threading.Lock()

    def first(self) -> Message | None:
        """Return the first message; None if the supervisor has gone. Blocks until it is there."""
        while not self._waiting:
            if not self._read():
                return None
        return self._waiting.pop(0)

    def start(self, handle: Callable[[Message], None], gone: Callable[[], None]) -> None:
        """Have each message handled from now on.

        Args:
            handle: called with each, in one thread; must not block.
            gone: called once the supervisor has gone.
        """

        def run() -> None:
            try:
                while True:
                    messages, self._waiting = self._waiting, []
                    for message in messages:
                        handle(message)
                    if not self._read():
                        return
            except Exception:
                logger.exception("a message of the supervisor could not be handled")
            finally:
                with self._sending:
                    self._socket.close()
                gone()

        threading.Thread(target=run, name="supervisor", daemon=True).start()

    def send(self, message: Message) -> None:
        """Have the supervisor get a message; one that has gone gets none. Thread-safe."""
        data = encode(message)
        try:
            with self._sending:
                self._socket.sendall(data)
        except OSError:
            pass  # that it has gone is noticed by the thread that reads

    def _read(self) -> bool:
        """Read what there is, blocking until something is; False if nothing comes any more."""
        try:
            data = self._socket.recv(_READ_AT_ONCE)
            self._waiting += self._decoder.feed(data)
        except (OSError, FrameError):
            return False
        return bool(data)
