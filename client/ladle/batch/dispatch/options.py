"""How a run sends its requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run sends its requests and ends its shards; the predictions don't depend on it."""

    request_rows: int | None = None
    """The most rows in a request; None for about a megabyte of rows, up to 512."""
    max_in_flight: int = 16
    """The most requests at a time."""
    shard_rows: int = 1 << 16
    """A shard ends at each multiple of this row number."""
    shard_s: float = 300.0
    """A shard also ends when it has been open for this long, so that a slow model's answers are
    soon safe."""
    timeout_s: float = 30.0
    """The most time that one request may take."""
    patience_s: float = 60.0
    """How long the servers may refuse every request, or be gone, until the run ends. Requests that
    time out are sent in halves first, and the run goes on for as long as that takes."""
    max_failed: int | None = None
    """How many rows may fail until the run ends. None for any number, unless all the first ones
    fail."""
