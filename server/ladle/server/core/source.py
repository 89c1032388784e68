"""The source: looks at base paths, and tells the manager which versions are aspired."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from ladle.protos.labels import LABELS_NAME, read_labels
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.settling import Rest, is_settled, look_at, observe
from ladle.server.core.versions import Latest, VersionPolicy, aspired, numbered, restated

logger = logging.getLogger(__name__)

# A folder counts as at rest after one poll without a change, but no later than this.
_LONGEST_SETTLE_S = 2.0

Check = Callable[[Path], str | None]
"""Says what a version's folder lacks to be whole, None if nothing; may raise OSError."""


@dataclass(frozen=True)
class MonitoredModel:
    """A model's name, where its versions lie, and which of them are wanted."""

    name: str
    base_path: Path
    policy: VersionPolicy = field(default_factory=Latest)


class AspiredVersions(Protocol):
    """Who is told of what lies under the base paths: the manager."""

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Take all the versions of a model that should be served, each with its folder."""

    def withdraw(self, name: str) -> None:
        """Take out a model that is no longer watched."""

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Take the labels that lie beside a model's versions."""

    def failed(self, name: str) -> Collection[int]:
        """Return the aspired versions that could not be loaded."""

    def retry(self, name: str, version: int) -> None:
        """Load a failed version afresh: its files have changed."""

    def report(self, name: str, problem: str | None, *, final: bool) -> None:
        """Hear why versions are missing; `final`: waiting alone won't mend it."""

    def source_stopped(self) -> None:
        """Hear that nothing more will be aspired."""


class _Lacking(NamedTuple):
    reason: str
    fingerprint: int
    final: bool


class _Watched:
    """What the source remembers of a model; `lock` is held while its base path is looked at."""

    def __init__(self, model: MonitoredModel) -> None:
        self.model = model
        self.lock = threading.Lock()
        self.looked = False
        self.labelled = True  # perhaps
        self.labels_error: str | None = None
        self.current: set[int] = set()
        self.accepted: dict[int, tuple[str, int]] = {}
        self.resting: dict[int, Rest] = {}
        self.lacking: dict[int, _Lacking] = {}

    def forget_all_but(self, folders: Mapping[int, str]) -> None:
        for version, (name, _) in list(self.accepted.items()):
            if folders.get(version) != name:
                del self.accepted[version]
        for known in (self.resting, self.lacking):
            for version in known.keys() - folders.keys():
                del known[version]


class FileSystemSource:
    """Polls the base paths of models and states what it finds, one model at a time. Thread-safe.

    A version counts once it is whole and at rest; until then what is served stays. So it does
    while a base path can't be read, and the other models go on; upstream gives up the poll of
    all models then (tensorflow/serving issue 2189).
    """

    def __init__(
        self,
        manager: AspiredVersions,
        *,
        poll_wait_s: float,
        check: Check = lambda _: None,
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take how to look; nothing is read before `start`.

        Args:
            manager: told, from the polling thread, what there is.
            poll_wait_s: seconds between polls; 0 looks at each model once, without waiting for
                files to come to rest; less never looks, but for `rescan`.
            check: tells whether a folder is whole.
            clock: for tests.
            wall: seconds since 1970, for tests.
        """
        self._manager = manager
        self._poll_wait_s = poll_wait_s
        self._settle_s = min(max(poll_wait_s, 0.0), _LONGEST_SETTLE_S)
        self._check = check
        self._clock = clock or MonotonicClock()
        self._wall = wall
        self._wake = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._due = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set_models(self, models: Iterable[MonitoredModel]) -> None:
        """Watch just these models from now on; returns at once.

        Models left out are withdrawn. New ones, and those whose base path or policy is another,
        are looked at without waiting for the next poll.
        """
        wanted = {model.name: model for model in models}
        with self._wake:
            for name in self._watched.keys() - wanted.keys():
                del self._watched[name]
                self._manager.withdraw(name)
            for name, model in wanted.items():
                known = self._watched.get(name)
                if known is None or known.model.base_path != model.base_path:
                    self._watched[name] = _Watched(model)
                elif known.model != model:
                    known.model = model
                    known.looked = False
            self._due = True
            self._wake.notify_all()

    def start(self) -> None:
        """Look once, in the caller's thread, then go on in one of its own."""
        if self._poll_wait_s < 0:
            return
        self.step()
        self._thread = threading.Thread(target=self._run, name="file system source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End polling; waits a moment for the thread, which a dead file system may hold."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self._manager.source_stopped()

    def step(self, *, only_new: bool = False) -> None:
        """Look at every base path once, or only at those not looked at yet."""
        with self._wake:
            self._due = False
            watched = [w for w in self._watched.values() if not (only_new and w.looked)]
        for one in watched:
            self._look(one)

    def rescan(self, name: str) -> bool:
        """Look at one model's base path now, and try its failed versions again.

        Returns False if no such model is watched.
        """
        with self._wake:
            watched = self._watched.get(name)
        if watched is None:
            return False
        self._look(watched)
        for version in self._manager.failed(name):
            self._manager.retry(name, version)
        return True

    def _look(self, watched: _Watched) -> None:
        with watched.lock:
            model = watched.model
            watched.looked = True
            try:
                names = os.listdir(model.base_path)
            except OSError as error:
                reason = error.strerror or str(error)
                unread = f"could not read base path {model.base_path}: {reason}"
                self._state(watched, None, unread, final=True)
                return
            folders = numbered(names)
            if watched.labelled or LABELS_NAME in names:
                self._look_at_labels(watched)
            watched.forget_all_but(folders)
            lacking: dict[int, _Lacking] = {}

            def is_whole(version: int) -> bool:
                if version in watched.accepted:
                    return True
                lack = self._lacking(watched, version, folders[version])
                if lack is not None:
                    lacking[version] = lack
                return lack is None

            whole = aspired(folders, model.policy, is_whole)
            wanted = restated(folders, model.policy, whole, watched.current)
            watched.lacking = lacking
            problem, final = _problem(model, folders, whole, lacking)
            self._state(watched, wanted, problem, final=final)
            for version in self._manager.failed(model.name):
                self._look_at_failed(watched, version)

    def _state(
        self, watched: _Watched, wanted: Mapping[int, str] | None, problem: str | None, final: bool
    ) -> None:
        model = watched.model
        with self._wake:
            if self._watched.get(model.name) is not watched:
                return  # it was withdrawn meanwhile, or moved
            if wanted is not None:
                watched.current = set(wanted)
                paths = {version: model.base_path / name for version, name in wanted.items()}
                self._manager.aspire(model.name, paths)
            self._manager.report(model.name, problem, final=final)

    def _lacking(self, watched: _Watched, version: int, folder_name: str) -> _Lacking | None:
        """Return why a version may not be loaded yet; None accepts it."""
        path = watched.model.base_path / folder_name
        now_s = self._clock.now()
        try:
            look = look_at(path)
            rest = watched.resting[version] = observe(watched.resting.get(version), look, now_s)
            if not is_settled(rest, self._settle_s, now_s=now_s, wall_s=self._wall()):
                return _Lacking("its files are still changing", look.fingerprint, final=False)
            known = watched.lacking.get(version)
            if known is not None and known.final and known.fingerprint == look.fingerprint:
                return known
            reason = self._check(path)
        except OSError as error:
            watched.resting.pop(version, None)
            if isinstance(error, NotADirectoryError):
                return _Lacking("it is not a folder", 0, final=True)
            return _Lacking(f"it can't be read: {error}", 0, final=True)
        if reason is not None:
            return _Lacking(reason, look.fingerprint, final=True)
        watched.accepted[version] = (folder_name, look.fingerprint)
        return None

    def _look_at_labels(self, watched: _Watched) -> None:
        model = watched.model
        try:
            labels = read_labels(model.base_path)
        except (OSError, ValueError) as error:
            if watched.labels_error != str(error):
                logger.warning("labels can't be read model=%s error=%s", model.name, error)
            watched.labels_error = str(error)
            return
        watched.labels_error = None
        watched.labelled = bool(labels)
        with self._wake:
            if self._watched.get(model.name) is watched:
                self._manager.label(model.name, labels)

    def _look_at_failed(self, watched: _Watched, version: int) -> None:
        """Have a failed version loaded again once its files are others, and whole."""
        accepted = watched.accepted.get(version)
        if accepted is None or self._lacking(watched, version, accepted[0]) is not None:
            return
        if watched.accepted[version] != accepted:
            self._manager.retry(watched.model.name, version)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopped and not self._due:
                    self._clock.wait(self._wake, self._poll_wait_s or None)
                if self._stopped:
                    return
                only_new = self._due or not self._poll_wait_s
            try:
                self.step(only_new=only_new)
            except Exception:
                logger.exception("a look at the base paths failed")


def _problem(
    model: MonitoredModel,
    folders: Mapping[int, str],
    whole: Mapping[int, str],
    lacking: Mapping[int, _Lacking],
) -> tuple[str | None, bool]:
    """Return what is wrong under a base path, and whether waiting alone won't mend it."""
    if not folders:
        return (
            f"no versions under base path {model.base_path}: "
            "expected a folder whose name is a number, such as 1"
        ), True
    if lacking:
        version = max(lacking)
        path = model.base_path / folders[version]
        final = all(lack.final for lack in lacking.values())
        return f"version {version} in {path} is not whole: {lacking[version].reason}", final
    if not whole:
        return f"none of the wanted versions is under base path {model.base_path}", True
    return None, True
