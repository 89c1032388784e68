"""The seam between transports and services: bytes come in with a Call, bytes or a status go out.

A transport turns the wire into Calls and knows nothing of models; services know nothing of
gRPC. A handler may answer later and from another thread, so that a transport which hands over
whole lists of requests at once fits behind the same seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from ladle.server.core.errors import Code


class Call(Protocol):
    """One unary request. It is answered or refused exactly once."""

    @property
    def request(self) -> bytes:
        """The request message as it came."""

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""

    def answer(self, response: bytes) -> None:
        """Send the response message; never blocks."""

    def refuse(self, code: Code, message: str) -> None:
        """End the call with a status instead; never blocks."""


Handler: TypeAlias = Callable[[Call], None]
Methods: TypeAlias = Mapping[str, Handler]
"""What a transport serves: a handler for each full method path, `/package.Service/Method`."""
