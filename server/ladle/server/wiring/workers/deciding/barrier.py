"""When a version may answer requests, and when no longer: at the same time in all workers.

Otherwise who reads AVAILABLE from one worker gets NOT_FOUND from the next. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Collection

Version = tuple[str, int]
"""A model's name, and a version of it."""

# What a worker may have said of versions and not taken back; the oldest is forgotten.
_MOST_VERSIONS = 10_000


class Barrier:
    """What each worker has loaded, or failed to load, and who waits for the others."""

    def __init__(self) -> None:
        self._ends: dict[int, dict[Version, bool]] = {}  # by worker: whether the load succeeded
        self._coming: dict[Version, set[int]] = {}
        self._going: dict[Version, set[int]] = {}

    def loaded(self, key: int, version: Version) -> None:
        """Take note that a worker has loaded a version, and waits for the others to have it."""
        self._note(key, version, succeeded=True)
        self._coming.setdefault(version, set()).add(key)

    def failed(self, key: int, version: Version) -> None:
        """Take note that a worker can't load a version."""
        self._note(key, version, succeeded=False)

    def leaving(self, key: int, version: Version) -> None:
        """Take note that a worker says that a version goes, and waits for the others to say it."""
        self._ends.get(key, {}).pop(version, None)
        self._going.setdefault(version, set()).add(key)

    def models(self, key: int) -> set[str]:
        """Return the models that a worker has a version of."""
        return {name for (name, _), succeeded in self._ends.get(key, {}).items() if succeeded}

    def gone(self, key: int) -> None:
        """Forget a worker."""
        self._ends.pop(key, None)
        for waiting in (self._coming, self._going):
            for version, keys in list(waiting.items()):
                keys.discard(key)
                if not keys:
                    del waiting[version]

    def released(self, awaited: Collection[int]) -> list[tuple[int, Version]]:
        """Return who need not wait any more, and with which version; each is returned once.

        `awaited` are the workers that others wait for.
        """
        ends = [self._ends.get(key, {}) for key in awaited]
        come = [version for version in self._coming if all(version in of for of in ends)]
        gone = [version for version in self._going if not any(of.get(version) for of in ends)]
        return [
            (key, version)
            for waiting, versions in ((self._coming, come), (self._going, gone))
            for version in versions
            for key in sorted(waiting.pop(version))
        ]

    def _note(self, key: int, version: Version, *, succeeded: bool) -> None:
        ends = self._ends.setdefault(key, {})
        ends[version] = succeeded
        if len(ends) > _MOST_VERSIONS:
            del ends[next(iter(ends))]
