"""A request over HTTP, as the endpoints get it: read, bounded, and routed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ladle.server.core.observation import Observation
from ladle.server.rest.response import Response


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request; its body is all there."""

    names: Mapping[str, str] = field(default_factory=dict)
    """What the URL names: `model`, and `version` (digits) or `label`; percent-decoded."""
    query: Mapping[str, str] = field(default_factory=dict)
    """What stands behind the URL's question mark, decoded; of one name the last value."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""
    """Decompressed."""
    deadline: float
    """The monotonic time at which the answer comes too late."""
    local: bool = False
    """Whether the caller is on this machine."""
    observation: Observation | None = None
    """Where what becomes of it is noted."""
    gone: asyncio.Future[None] | None = None
    """Done once the caller has gone away."""


Endpoint: TypeAlias = "Callable[[Request], Awaitable[Response]]"
"""Answers a request in the event loop, which it must not hold up; may raise ServingError."""
