"""What all models in stores share, and who hears of what is fetched for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ladle.server.core.clock import Clock
from ladle.server.core.remote.beside import Beside
from ladle.server.core.remote.cache import Cache
from ladle.server.core.remote.decisions import Schedule
from ladle.server.core.remote.workers import Workers
from ladle.server.core.sources.base_path import Check
from ladle.store.store import Store
from ladle.store.url import StoreUrl


class Notes(Protocol):
    """Hears of what is fetched. Any thread calls; nothing may block."""

    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        """A version was brought into the cache: `cached`, `downloaded` or `failed`."""

    def look_failed(self, model: str) -> None:
        """The store could not be listed."""

    def version_changed(self, model: str) -> None:
        """Somebody has overwritten a version that is served."""


@dataclass(frozen=True, kw_only=True)
class RemoteOptions:
    """What all models in stores share."""

    cache: Cache
    open_store: Callable[[StoreUrl], Store]
    check: Check
    """Says what a folder lacks to be a whole model."""
    beside: Beside | None = None
    """What is read from beside the versions; None for nothing."""
    schedule: Schedule
    once: bool
    """Whether each base is looked at once only, and what is found is taken."""
    require_store: bool
    """Whether a start without the store is refused."""
    threads: int
    """How many parts of one version are fetched at a time."""
    looks: Workers
    fetches: Workers
    notes: Notes
    clock: Clock
    wall: Callable[[], float]
    """Seconds since 1970."""
    chance: Callable[[], float]
    """From 0 to 1, at random."""
