"""What lies under a model's base path: what a scan finds, given what earlier ones found."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

from ladle.protos.files.versions import LABELS_NAME, read_labels, without_versions
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import without_folder
from ladle.server.core.sources.stability import Stability, is_stable, observe, scan_folder
from ladle.server.core.sources.version_policy import VersionPolicy, aspired, next_aspired, numbered

logger = logging.getLogger(__name__)

# Where one of these lies, TensorFlow finds a model.
Check = Callable[[Path], str | None]
"""Says what a version's folder lacks to be whole, None if nothing; may raise OSError."""


class ScanResult(NamedTuple):
    """What a scan finds."""

    problem: str | None
    """Why versions are missing."""
    final: bool
    """Whether waiting alone won't change that."""
    wanted: Mapping[int, Path] | None = None
    """All the versions to aspire to; None leaves those that are."""
    labels: Mapping[str, int] | None = None
    """Those that lie beside the versions; None leaves those that are in force."""
    repaired: Collection[int] = ()
    """The versions that had failed to load, and whose files have changed since."""
    incomplete: Mapping[int, str] = MappingProxyType({})
    """Why each version that is wanted may not be loaded yet."""
    labelled_s: float | None = None
    """When the labels were changed, in seconds since 1970, if that is known."""


class Base(Protocol):
    """Where a model's versions lie, and what was seen there. One scan at a time."""

    may_hang: bool
    """Whether `scan` may block for ever."""

    def is_due(self) -> bool:
        """Whether a scan may find something new."""

    def refresh(self) -> None:
        """Have the next scan show what is there now; may block."""

    def scan(
        self,
        policy: VersionPolicy,
        failed: Collection[int] = (),
        *,
        keeps_labelled: bool = False,
    ) -> ScanResult:
        """Return what there is."""

    def close(self) -> None:
        """Give up what is held; no scan comes after it."""


class _Incomplete(NamedTuple):
    reason: str
    fingerprint: int
    final: bool


class BasePath:
    """A model's base path, and what was seen there. One scan at a time."""

    may_hang = True

    def __init__(
        self,
        path: Path,
        check: Check = lambda _: None,
        *,
        stable_for_s: float = 0.0,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take where to scan; nothing is read yet.

        Args:
            path: the folder in which the versions' folders lie.
            check: says what a version lacks.
            stable_for_s: seconds without a change after which it is stable; 0 scans once, and
                takes what it finds.
            clock: for tests.
            wall: seconds since 1970, for tests.
        """
        self._path = path
        self._listed = os.fspath(path)
        self._check = check
        self._stable_for_s = stable_for_s
        self._clock = clock or MonotonicClock()
        self._wall = wall
        self._labelled = True  # perhaps
        self._labels: Mapping[str, int] = {}
        self._labelled_s: float | None = None
        self._labels_error: str | None = None
        self._current: set[int] = set()
        self._names: Mapping[int, str] = {}
        self._wanted: Mapping[int, Path] = {}
        self._accepted: dict[int, tuple[str, int]] = {}
        self._stability: dict[int, Stability] = {}
        self._incomplete: dict[int, _Incomplete] = {}

    def is_due(self) -> bool:
        """Return True: a folder is cheap to list."""
        return True

    def refresh(self) -> None:
        """Do nothing: each scan lists the folder."""

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def scan(
        self,
        policy: VersionPolicy,
        failed: Collection[int] = (),
        *,
        keeps_labelled: bool = False,
    ) -> ScanResult:
        """Return what there is now; blocks for as long as the file system does.

        Args:
            policy: which versions are wanted.
            failed: those that could not be loaded.
            keeps_labelled: want those that have a label beside them too.
        """
        try:
            names = os.listdir(self._listed)
        except OSError as error:
            reason = error.strerror or str(error)
            return ScanResult(f"could not read base path {self._path}: {reason}", final=True)
        folders = numbered(names)
        labels = self._read_labels() if self._labelled or LABELS_NAME in names else None
        self._forget_all_but(folders)
        incomplete: dict[int, _Incomplete] = {}

        def is_whole(version: int) -> bool:
            if version in self._accepted:
                return True
            why = self._incompleteness(version, folders[version])
            if why is not None:
                incomplete[version] = why
            return why is None

        labelled = self._labels.values() if keeps_labelled else ()
        whole = aspired(folders, policy, is_whole, labelled)
        next_versions = next_aspired(folders, policy, whole, self._current)
        wanted: Mapping[int, Path] | None = None
        if next_versions is not None:
            self._current = set(next_versions)
            if next_versions != self._names:  # nearly always they are as before
                self._names = next_versions
                self._wanted = {v: self._path / name for v, name in next_versions.items()}
            wanted = self._wanted
        self._incomplete = incomplete
        problem, final = self._problem(names, folders, whole)
        return ScanResult(
            problem,
            final,
            wanted,
            labels,
            [version for version in failed if self._is_repaired(version)],
            {
                version: f"version {version} is not whole: {why.reason}"
                for version, why in incomplete.items()
            },
            self._labelled_s,
        )

    def _forget_all_but(self, folders: Mapping[int, str]) -> None:
        for version, (name, _) in list(self._accepted.items()):
            if folders.get(version) != name:
                del self._accepted[version]
        for known in (self._stability, self._incomplete):
            for version in known.keys() - folders.keys():
                del known[version]

    def _incompleteness(self, version: int, folder_name: str) -> _Incomplete | None:
        """Return why a version may not be loaded yet; None accepts it."""
        path = self._path / folder_name
        now_s = self._clock.now()
        known = self._incomplete.get(version)
        try:
            scan = scan_folder(path)
            stability = self._stability[version] = observe(
                self._stability.get(version), scan, now_s
            )
            if not is_stable(stability, self._stable_for_s, now_s=now_s, wall_s=self._wall()):
                return _Incomplete("its files are still changing", scan.fingerprint, final=False)
            if known is not None and known.final and known.fingerprint == scan.fingerprint:
                return known
            reason = self._check(path)
        except OSError as error:
            self._stability.pop(version, None)
            if isinstance(error, NotADirectoryError):
                return _Incomplete("it is not a folder", 0, final=True)
            reason = without_folder(f"it can't be read: {error}", self._path)
            # A copy renames its files while they are scanned; what lacks the same file twice lacks
            # it for good.
            is_on_its_way = isinstance(error, FileNotFoundError) and self._stable_for_s > 0
            again = known is not None and known.reason == reason
            return _Incomplete(reason, 0, final=again or not is_on_its_way)
        if reason is not None:
            return _Incomplete(reason, scan.fingerprint, final=True)
        self._accepted[version] = (folder_name, scan.fingerprint)
        return None

    def _is_repaired(self, version: int) -> bool:
        """Whether a failed version's files have changed since they were accepted, and are whole."""
        accepted = self._accepted.get(version)
        if accepted is None:
            return False
        name, fingerprint = accepted
        try:
            if scan_folder(self._path / name).fingerprint == fingerprint:
                return False
        except OSError:
            return False
        return self._incompleteness(version, name) is None

    def _read_labels(self) -> Mapping[str, int] | None:
        try:
            labels = read_labels(self._path)
            labelled_s = (self._path / LABELS_NAME).stat().st_mtime if labels else None
        except (OSError, ValueError) as error:
            if self._labels_error != str(error):
                logger.warning("labels can't be read base_path=%s error=%s", self._path, error)
            self._labels_error = str(error)
            return None
        self._labels_error = None
        self._labelled = bool(labels)
        self._labels, self._labelled_s = labels, labelled_s
        return labels

    def _problem(
        self, names: Collection[str], folders: Mapping[int, str], whole: Mapping[int, str]
    ) -> tuple[str | None, bool]:
        """Return what is wrong, and whether waiting alone won't change it."""
        if not folders:
            return without_versions(self._path, names), True
        if self._incomplete:
            version = max(self._incomplete)
            path = self._path / folders[version]
            final = all(why.final for why in self._incomplete.values())
            reason = self._incomplete[version].reason
            return f"version {version} in {path} is not whole: {reason}", final
        if not whole:
            return f"none of the wanted versions is under base path {self._path}", True
        return None, True
