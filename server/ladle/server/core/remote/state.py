"""What is known of a model's base in a store, and what follows from it: no I/O, and no threads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from ladle.server.core.remote.asking import KnownLabels
from ladle.server.core.remote.attempt import Outcome
from ladle.server.core.remote.cache import Known
from ladle.server.core.remote.decisions import Base, agreed, next_wait_s
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.problems import Problem, problem_of
from ladle.server.core.remote.version import RemoteVersion
from ladle.server.core.sources.base_path import ScanResult
from ladle.server.core.sources.version_policy import Latest, VersionPolicy, aspired, next_aspired
from ladle.store.url import StoreUrl

# What is served is listed again at each so many looks, to tell who overwrites a version.
_LOOKS_BETWEEN_CHECKS = 20
_SHORT_WAIT_S = 1.0
# Where versions are looked for once, a fetch is tried so often, without waits.
_TRIES_OF_ONE_LOOK = 3


class Asked(NamedTuple):
    """What a look has to find out."""

    believed: Base
    policy: VersionPolicy
    failed: frozenset[int]
    """The versions that could not be loaded."""
    versions: dict[int, RemoteVersion]
    checks_all: bool
    """Whether versions that are served are listed again."""


class BaseState:
    """Not thread-safe: RemoteBase has a lock for it."""

    def __init__(self, url: StoreUrl, options: RemoteOptions) -> None:
        """Know nothing yet."""
        self._url = url
        self._options = options
        self.policy: VersionPolicy = Latest()
        self.keeps_labelled = False
        self.labels: KnownLabels | None = None
        self.versions: dict[int, RemoteVersion] = {}
        self.is_closed = False
        self._failed: Collection[int] = ()
        self._shown: Base | None = None  # by the last look
        self._believed: Base | None = None
        self._problem: Problem | None = None
        self._current: Mapping[int, Path] = {}
        self._due_at: float | None = 0.0
        self._failures = 0
        self._looks = 0

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows what versions there are."""
        return self._believed is None

    def is_due(self, now_s: float) -> bool:
        """Whether a scan would do more than the last one."""
        return self.is_look_due(now_s) or any(
            known.is_to_retry(now_s) for known in self.versions.values()
        )

    def is_look_due(self, now_s: float) -> bool:
        """Whether it is time to ask the store."""
        return self._due_at is not None and now_s >= self._due_at

    def ask_for(
        self, policy: VersionPolicy, failed: Collection[int], *, keeps_labelled: bool
    ) -> None:
        """Take what is wanted; another wish than before is looked for at once."""
        if (policy, keeps_labelled) != (self.policy, self.keeps_labelled):
            self.policy, self.keeps_labelled, self._due_at = policy, keeps_labelled, 0.0
        self._failed = tuple(failed)

    def close(self) -> None:
        """Give up all versions."""
        self.is_closed = True
        for known in self.versions.values():
            known.drop()
        self.versions.clear()

    def look_began(self, now: Base) -> Asked:
        """Take what the base holds now, and return what is to be found out of its versions."""
        served = [version for version, known in self.versions.items() if known.lease]
        believed = agreed(self._shown, now, served)
        for version in self.versions.keys() - believed.folders.keys():
            self.versions.pop(version).drop()
        if not self.is_closed:
            for version, name in believed.folders.items():
                known = self.versions.setdefault(version, RemoteVersion(name))
                # The cache knows numbers alone, and a store's name may begin with zeros.
                known.folder_name = now.folders.get(version, known.folder_name)
        checks_all = self._looks % _LOOKS_BETWEEN_CHECKS == _LOOKS_BETWEEN_CHECKS - 1
        for known in self.versions.values() if checks_all else ():
            known.forgive()
        failed = frozenset(self._failed)
        return Asked(believed, self.policy, failed, dict(self.versions), checks_all)

    def look_found(self, now: Base, believed: Base, labels: KnownLabels | None) -> None:
        """Take what a look has found out."""
        self._shown, self._believed, self.labels = now, believed, labels

    def look_ended(self, problem: Problem | None) -> bool:
        """Keep how a look has ended, and when the next comes; whether a problem is news."""
        options = self._options
        self._looks += 1
        self._failures = 0 if problem is None else self._failures + 1
        is_news = problem is not None and (
            self._problem is None or self._problem.text != problem.text
        )
        self._problem = problem
        refuses = options.require_store and self._shown is None
        if problem is not None and (options.once or refuses):
            self._problem = problem._replace(is_final=True)
        if options.once:
            self._due_at = None
            return is_news
        unsettled = any(
            known.verdict is not None and not known.verdict.files and not known.verdict.final
            for known in self.versions.values()
        )
        self._due_at = options.clock.now() + next_wait_s(
            options.schedule, self._failures, options.chance(), unsettled=unsettled
        )
        return is_news

    def labelled(self, labels: KnownLabels | None) -> Collection[int]:
        """Return the versions that are wanted for their labels."""
        return labels.labels.values() if labels is not None and self.keeps_labelled else ()

    def recalled(self, taken: dict[int, RemoteVersion], labels: Mapping[str, int]) -> None:
        """Take versions of the cache, where the store does not answer."""
        self.versions = taken
        folders = {version: known.folder_name for version, known in taken.items()}
        self._believed = Base(folders, frozenset(), frozenset())
        self.labels = KnownLabels("", labels)

    def want(self, wanted: Mapping[int, str]) -> list[tuple[int, RemoteVersion]]:
        """Give up what is not wanted; return what is, and is not there."""
        missing = []
        for version, known in self.versions.items():
            known.is_wanted = version in wanted
            if not known.is_wanted:
                known.cancelled.set()
                if version not in self._current:
                    known.release()
            elif known.lease is None and known.retry_at is None:
                missing.append((version, known))
        return missing

    def fetch_failed(self, known: RemoteVersion, problem: Problem, outcome: Outcome) -> bool:
        """Keep why a version did not come, and when it is tried again; whether that is at once."""
        options = self._options
        now_s = options.clock.now()
        known.problem = problem
        known.tries += not outcome.waits
        if outcome.is_outdated:
            self._due_at = now_s if options.once else now_s + _SHORT_WAIT_S
        elif outcome.waits:
            known.retry_at = now_s + _SHORT_WAIT_S
        elif not options.once:
            wait_s = next_wait_s(options.schedule, known.tries - 1, options.chance())
            known.retry_at = now_s + wait_s
        elif known.tries < _TRIES_OF_ONE_LOOK and not problem.is_final:
            return True
        else:
            known.problem = problem._replace(is_final=True)
        return False

    def to_remember(self) -> Known | None:
        """Return what a start without the store should know; None for nothing."""
        leased = {v: known.leased for v, known in self.versions.items() if known.lease}
        return Known(leased, self.labels.labels if self.labels else {}) if leased else None

    def result(self) -> ScanResult:
        """Return what to state now; it counts as stated."""
        if self._believed is None:
            return ScanResult(*(self._problem or Problem(f"{self._url} is being listed", False)))
        folders = self._believed.folders
        leases = {v: known.lease for v, known in self.versions.items() if known.lease}
        labelled = self.labelled(self.labels)
        whole = aspired(folders, self.policy, leases.__contains__, labelled)
        stated = next_aspired(folders, self.policy, whole, self._current)
        wanted: Mapping[int, Path] | None = None
        if stated is not None:
            wanted = {v: leases[v].path for v in stated if v in leases}
            if any(known.is_coming for known in self.versions.values()):
                wanted = {**self._current, **wanted}  # nothing goes before what is to follow it
            self._current = wanted
        missing = {v: why for v, known in self.versions.items() if (why := known.why_not())}
        told = problem_of(self._url, self._problem, self._shown, whole, missing)
        problem, is_final = told or (None, True)
        return ScanResult(
            problem,
            is_final,
            wanted,
            None if self.labels is None else self.labels.labels,
            (),
            {v: f"version {v} is not there: {why.text}" for v, why in missing.items()},
            None if self.labels is None else self.labels.changed_s,
        )
