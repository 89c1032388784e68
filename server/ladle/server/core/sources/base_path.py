"""What lies under a model's base path: what one look at it finds, given what was seen before."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ladle.protos.versions import LABELS_NAME, read_labels
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.sources.stability import Rest, is_settled, look_at, observe
from ladle.server.core.sources.version_policy import VersionPolicy, aspired, numbered, restated

logger = logging.getLogger(__name__)

Check = Callable[[Path], str | None]
"""Says what a version's folder lacks to be whole, None if nothing; may raise OSError."""


class Found(NamedTuple):
    """What a look comes to."""

    problem: str | None
    """Why versions are missing."""
    final: bool
    """Whether waiting alone won't mend that."""
    wanted: Mapping[int, Path] | None = None
    """All the versions to aspire to; None leaves those that are."""
    labels: Mapping[str, int] | None = None
    """Those that lie beside the versions; None leaves those that were told."""
    mended: Collection[int] = ()
    """The versions that had failed to load, and whose files are others now."""


class _Lacking(NamedTuple):
    reason: str
    fingerprint: int
    final: bool


class BasePath:
    """A model's base path, and what was seen there. One look at a time."""

    def __init__(
        self,
        path: Path,
        check: Check = lambda _: None,
        *,
        settle_s: float = 0.0,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take where to look; nothing is read yet.

        Args:
            path: the folder in which the versions' folders lie.
            check: tells whether a version is whole.
            settle_s: seconds without a change after which it is at rest; 0 looks once, and takes
                what it finds.
            clock: for tests.
            wall: seconds since 1970, for tests.
        """
        self._path = path
        self._check = check
        self._settle_s = settle_s
        self._clock = clock or MonotonicClock()
        self._wall = wall
        self._labelled = True  # perhaps
        self._labels_error: str | None = None
        self._current: set[int] = set()
        self._accepted: dict[int, tuple[str, int]] = {}
        self._resting: dict[int, Rest] = {}
        self._lacking: dict[int, _Lacking] = {}

    def look(self, policy: VersionPolicy, failed: Collection[int] = ()) -> Found:
        """Return what there is now; blocks for as long as the file system does.

        Args:
            policy: which versions are wanted.
            failed: those that could not be loaded.
        """
        try:
            names = os.listdir(self._path)
        except OSError as error:
            reason = error.strerror or str(error)
            return Found(f"could not read base path {self._path}: {reason}", final=True)
        folders = numbered(names)
        labels = self._read_labels() if self._labelled or LABELS_NAME in names else None
        self._forget_all_but(folders)
        lacking: dict[int, _Lacking] = {}

        def is_whole(version: int) -> bool:
            if version in self._accepted:
                return True
            lack = self._lack(version, folders[version])
            if lack is not None:
                lacking[version] = lack
            return lack is None

        whole = aspired(folders, policy, is_whole)
        restate = restated(folders, policy, whole, self._current)
        wanted: dict[int, Path] | None = None
        if restate is not None:
            self._current = set(restate)
            wanted = {version: self._path / name for version, name in restate.items()}
        self._lacking = lacking
        problem, final = self._problem(folders, whole)
        return Found(
            problem,
            final,
            wanted,
            labels,
            [version for version in failed if self._is_mended(version)],
        )

    def _forget_all_but(self, folders: Mapping[int, str]) -> None:
        for version, (name, _) in list(self._accepted.items()):
            if folders.get(version) != name:
                del self._accepted[version]
        for known in (self._resting, self._lacking):
            for version in known.keys() - folders.keys():
                del known[version]

    def _lack(self, version: int, folder_name: str) -> _Lacking | None:
        """Return why a version may not be loaded yet; None accepts it."""
        path = self._path / folder_name
        now_s = self._clock.now()
        known = self._lacking.get(version)
        try:
            look = look_at(path)
            rest = self._resting[version] = observe(self._resting.get(version), look, now_s)
            if not is_settled(rest, self._settle_s, now_s=now_s, wall_s=self._wall()):
                return _Lacking("its files are still changing", look.fingerprint, final=False)
            if known is not None and known.final and known.fingerprint == look.fingerprint:
                return known
            reason = self._check(path)
        except OSError as error:
            self._resting.pop(version, None)
            if isinstance(error, NotADirectoryError):
                return _Lacking("it is not a folder", 0, final=True)
            reason = f"it can't be read: {error}"
            # A copy renames its files while they are looked at; what lacks the same file twice
            # lacks it for good.
            is_on_its_way = isinstance(error, FileNotFoundError) and self._settle_s > 0
            again = known is not None and known.reason == reason
            return _Lacking(reason, 0, final=again or not is_on_its_way)
        if reason is not None:
            return _Lacking(reason, look.fingerprint, final=True)
        self._accepted[version] = (folder_name, look.fingerprint)
        return None

    def _is_mended(self, version: int) -> bool:
        """Whether a failed version's files are others than those that were accepted, and whole."""
        accepted = self._accepted.get(version)
        if accepted is None:
            return False
        name, fingerprint = accepted
        try:
            if look_at(self._path / name).fingerprint == fingerprint:
                return False
        except OSError:
            return False
        return self._lack(version, name) is None

    def _read_labels(self) -> Mapping[str, int] | None:
        try:
            labels = read_labels(self._path)
        except (OSError, ValueError) as error:
            if self._labels_error != str(error):
                logger.warning("labels can't be read base_path=%s error=%s", self._path, error)
            self._labels_error = str(error)
            return None
        self._labels_error = None
        self._labelled = bool(labels)
        return labels

    def _problem(
        self, folders: Mapping[int, str], whole: Mapping[int, str]
    ) -> tuple[str | None, bool]:
        """Return what is wrong, and whether waiting alone won't mend it."""
        if not folders:
            return (
                f"no versions under base path {self._path}: "
                "expected a folder whose name is a number, such as 1"
            ), True
        if self._lacking:
            version = max(self._lacking)
            path = self._path / folders[version]
            final = all(lack.final for lack in self._lacking.values())
            reason = self._lacking[version].reason
            return f"version {version} in {path} is not whole: {reason}", final
        if not whole:
            return f"none of the wanted versions is under base path {self._path}", True
        return None, True
