"""When a version that is loaded may answer requests: once it is loaded in all workers.

Otherwise who reads AVAILABLE from one worker gets NOT_FOUND from the next. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

Version = tuple[str, int]
"""A model's name, and a version of it."""

# What a worker may have said of versions and not taken back; the oldest is forgotten.
_MOST_VERSIONS = 10_000


class Barrier:
    """What each worker has loaded, or failed to load, and who waits for the others."""

    def __init__(self) -> None:
        self._settled: dict[int, dict[Version, None]] = {}
        self._waiting: dict[Version, set[int]] = {}

    def arrived(self, key: int, version: Version, *, waits: bool) -> None:
        """Take note that a worker has loaded a version and waits, or has failed to load it."""
        settled = self._settled.setdefault(key, {})
        settled[version] = None
        if len(settled) > _MOST_VERSIONS:
            del settled[next(iter(settled))]
        if waits:
            self._waiting.setdefault(version, set()).add(key)

    def left(self, key: int, version: Version) -> None:
        """Take note that a worker has unloaded a version."""
        self._settled.get(key, {}).pop(version, None)

    def gone(self, key: int) -> None:
        """Forget a worker."""
        self._settled.pop(key, None)
        for version, waiting in list(self._waiting.items()):
            waiting.discard(key)
            if not waiting:
                del self._waiting[version]

    def released(self, awaited: Collection[int]) -> Iterable[tuple[int, Version]]:
        """Return who need not wait any more, and with which version; each is returned once.

        `awaited` are the workers that others wait for.
        """
        ready = [
            version
            for version in self._waiting
            if all(version in self._settled.get(key, {}) for key in awaited)
        ]
        return [(key, version) for version in ready for key in sorted(self._waiting.pop(version))]
