"""The client that blocks, and the one that awaits made to look like it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from ladle.client import AsyncClient, Client


class Awaited:
    """An AsyncClient whose methods block: it runs an event loop of its own meanwhile."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._client = AsyncClient(*args, **settings)
        self._loop = asyncio.new_event_loop()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **named: Any) -> Any:
            return self._loop.run_until_complete(method(*args, **named))

        return call

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


SHELLS: list[Any] = [Client, Awaited]
