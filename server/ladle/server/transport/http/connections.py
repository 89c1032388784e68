"""All HTTP connections of a server, and how many there may be."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Protocol


class Connection(Protocol):
    """One of them."""

    def stop(self) -> None:
        """Close it once the requests that have come are answered."""

    def abort(self) -> None:
        """Close it at once."""


class Connections:
    """All connections, how many are served, and what is served beyond. Lives in one event loop."""

    def __init__(self, *, most: int, always: Collection[str] = ()) -> None:
        """Take the bounds.

        Args:
            most: how many are served, idle ones included; on others a request is answered 503.
            always: paths that are served on those too: an orchestrator's probes.
        """
        self.most = most
        self.always = frozenset(always)
        self.open: set[Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        """What answers their requests."""
        self.idle: dict[Connection, None] = {}
        """Connections beyond `most` without a request, the oldest first."""
        self._is_stopping = False
        self._all_ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether there are more than are served."""
        return len(self.open) > self.most

    def add(self, connection: Connection) -> None:
        """Take one in."""
        self.open.add(connection)
        if self._is_stopping:
            connection.stop()

    def discard(self, connection: Connection) -> None:
        """Forget one that has ended."""
        self.open.discard(connection)
        self.idle.pop(connection, None)
        if self._is_stopping and not self.open:
            self._all_ended.set()

    def close_oldest(self) -> bool:
        """Close a connection that keeps others out and asks for nothing; False if none does."""
        for connection in self.idle:
            connection.abort()
            del self.idle[connection]
            return True
        return False

    def stop(self) -> None:
        """Close each once the requests that have come are answered."""
        self._is_stopping = True
        for connection in list(self.open):
            connection.stop()

    async def ended(self, within_s: float) -> bool:
        """Return whether all have ended, at the latest after `within_s` seconds."""
        if self.open:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._all_ended.wait(), within_s)
        return not self.open
