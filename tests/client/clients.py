"""The client that blocks, and the one that awaits made to look like it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from ladle.client import AsyncClient, Client

T = TypeVar("T")


class Awaited:
    """An AsyncClient whose methods block: it runs an event loop of its own meanwhile."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.awaited = AsyncClient(*args, **settings)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.awaited, name)
        return lambda *args, **named: self.run(method(*args, **named))

    def run(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """Run what awaits the client's methods, in its event loop."""
        return self._loop.run_until_complete(awaitable)

    def __enter__(self) -> Awaited:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self._loop.close()


CLIENTS: list[Any] = [Client, Awaited]
