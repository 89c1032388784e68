"""One request over HTTP and its answer: what a connection and the application have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar, overload

D = TypeVar("D")

# How much of a body is there at most that nobody has taken yet; more is left in the socket.
MAX_UNTAKEN_BYTES = 64 << 10


class Headers(Mapping[str, str]):
    """A request's headers by lower-case name. A name that comes twice has its first value."""

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        """Take names, in lower case, and values in their order."""
        self._pairs = pairs
        self._first = dict(reversed(pairs))

    def __getitem__(self, name: str) -> str:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __contains__(self, name: object) -> bool:
        return name in self._first

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    @overload
    def get(self, name: str, default: D, /) -> str | D: ...

    def get(self, name: str, default: object = None, /) -> object:
        """Return the first value of a name, or the default; quicker than Mapping's own."""
        return self._first.get(name, default)

    def every(self, name: str) -> list[str]:
        """Return all values of a name."""
        return [value for key, value in self._pairs if key == name]


class Sender(Protocol):
    """Where a request came from, and where its answer goes."""

    def wants_more(self, exchange: Exchange) -> None:
        """Send the rest of the body."""

    def answer(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Take the answer."""


class Exchange:
    """One request and its answer. It lives in one event loop, and needs no lock."""

    __slots__ = (
        "_is_whole",
        "_pieces",
        "_sender",
        "_waiter",
        "asks_first",
        "gone",
        "headers",
        "is_answered",
        "local",
        "method",
        "path",
        "query",
        "untaken",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: Headers,
        sender: Sender,
        *,
        query: str = "",
        local: bool = False,
        asks_first: bool = False,
    ) -> None:
        """Take a request's head.

        Args:
            method: in upper case.
            path: as it was sent, percent-encoded, without the query.
            headers: all of them.
            sender: gets the answer.
            query: what comes after the path, percent-encoded, without the question mark.
            local: whether the caller is on this machine.
            asks_first: whether the caller sends the body only when it is asked for.
        """
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.local = local
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the caller has gone away."""
        self.is_answered = False
        self.asks_first = asks_first
        """Whether the caller sends the body only when it is asked for."""
        self.untaken = 0
        """How many bytes of the body are there that nobody has taken."""
        self._sender = sender
        self._pieces: list[bytes] = []
        self._is_whole = False
        self._waiter: asyncio.Future[None] | None = None

    def take(self) -> tuple[bytes, bool]:
        """Return what has come of the body since the last time, and whether that is its end."""
        pieces = self._pieces
        if len(pieces) == 1:
            taken = pieces.pop()
        else:
            taken = b"".join(pieces)
            pieces.clear()
        self.untaken = 0
        return taken, self._is_whole

    async def wait(self, until: float) -> bool:
        """Wait for more of the body; False if the caller has gone away.

        Args:
            until: the monotonic time at which it comes too late.

        Raises:
            asyncio.TimeoutError: Nothing has come until then.
        """
        self._sender.wants_more(self)
        if not (self._pieces or self._is_whole or self.gone.done()):
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            await asyncio.wait([waiter], timeout=until - loop.time())
            self._waiter = None
            if not waiter.done():
                raise asyncio.TimeoutError
        return not self.gone.done()

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send the answer, without `content-length`; without effect once there is one."""
        if not self.is_answered:
            self.is_answered = True
            self._pieces.clear()
            self.untaken = 0
            self._sender.answer(self, status, headers, body)

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body; the connection calls it."""
        if not self.is_answered:
            self._pieces.append(piece)
            self.untaken += len(piece)
            self._wake()

    def end_body(self) -> None:
        """Note that the body is whole; the connection calls it."""
        self._is_whole = True
        self._wake()

    def leave(self) -> None:
        """Note that the caller has gone away; the connection calls it."""
        if not self.gone.done():
            self.gone.set_result(None)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


Serve: TypeAlias = "Callable[[Exchange], Awaitable[None]]"
"""The application: answers one exchange."""
