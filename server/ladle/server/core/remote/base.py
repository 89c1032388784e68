"""A model's base in a store: what was seen there, and which versions are in the cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from ladle.server.core.remote.asking import KnownLabels, ask_labels
from ladle.server.core.remote.attempt import Outcome, attempt, recall
from ladle.server.core.remote.beside import keep_beside
from ladle.server.core.remote.cache import Known
from ladle.server.core.remote.decisions import (
    Base,
    agreed,
    base_of,
    next_wait_s,
)
from ladle.server.core.remote.examining import examine
from ladle.server.core.remote.fetching import Wanted
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.problems import Problem, problem_of
from ladle.server.core.remote.version import RemoteVersion
from ladle.server.core.sources.base_path import ScanResult
from ladle.server.core.sources.version_policy import Latest, VersionPolicy, aspired, next_aspired
from ladle.store.errors import StoreError
from ladle.store.store import Store
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

# What is served is listed again at each so many looks, to tell who overwrites a version.
_LOOKS_BETWEEN_CHECKS = 20
_SHORT_WAIT_S = 1.0
# Where versions are looked for once, a fetch is tried so often, without waits.
_TRIES_OF_ONE_LOOK = 3
_NO_THREAD = "no thread can be had to ask the store; it is tried again"


class RemoteBase:
    """Looks at a base in a store, and fetches what is wanted. Thread-safe.

    `scan` returns what is known and never waits: looks and downloads have threads of their own,
    and `changed` is called whenever one of them has ended.
    """

    may_hang = False

    def __init__(
        self, url: StoreUrl, model: str, options: RemoteOptions, changed: Callable[[], None]
    ) -> None:
        """Take where to look; nothing is sent before the first scan."""
        self._url = url
        self._model = model
        self._options = options
        self._bucket = f"{url.scheme}://{url.bucket}"
        self._notify = changed
        self._lock = threading.Condition()
        self._beside: Mapping[str, str] | None = None  # of who looks: one thread at a time
        # Guarded by _lock.
        self._policy: VersionPolicy = Latest()
        self._keeps_labelled = False
        self._failed: Collection[int] = ()
        self._shown: Base | None = None  # by the last look
        self._believed: Base | None = None
        self._problem: Problem | None = None
        self._labels: KnownLabels | None = None
        self._versions: dict[int, RemoteVersion] = {}
        self._current: Mapping[int, Path] = {}
        self._due_at: float | None = 0.0
        self._failures = 0
        self._looks = 0
        self._is_looking = False
        self._closed = False

    def is_due(self) -> bool:
        """Whether a scan would do more than the last one."""
        now_s = self._options.clock.now()
        with self._lock:
            return self._is_look_due(now_s) or any(
                known.is_to_retry(now_s) for known in self._versions.values()
            )

    def refresh(self) -> None:
        """Look at the store now; blocks."""
        with self._lock:
            while self._is_looking:
                self._lock.wait()
            if self._closed:
                return
            self._is_looking = True
        self._look()

    def scan(
        self,
        policy: VersionPolicy,
        failed: Collection[int] = (),
        *,
        keeps_labelled: bool = False,
    ) -> ScanResult:
        """Return what there is, as far as the last look has shown; never waits for the store.

        Args:
            policy: which versions are wanted.
            failed: those that could not be loaded.
            keeps_labelled: want those that have a label beside them too.
        """
        now_s = self._options.clock.now()
        with self._lock:
            if (policy, keeps_labelled) != (self._policy, self._keeps_labelled):
                self._policy, self._keeps_labelled, self._due_at = policy, keeps_labelled, 0.0
            self._failed = tuple(failed)
            begins = self._is_look_due(now_s) and not self._is_looking and not self._closed
            self._is_looking |= begins
            for version, known in self._versions.items():
                if known.is_to_retry(now_s):
                    self._submit_fetch(version, known)
            result = self._result()
        if begins and not self._options.looks.submit(self._bucket, self._look_and_notify):
            with self._lock:
                self._is_looking = False
                self._look_ended(Problem(f"{self._url}: {_NO_THREAD}", False))
                result = self._result()
                self._lock.notify_all()
        return result

    def close(self) -> None:
        """Give up what is under way, and the claims on the cache."""
        with self._lock:
            self._closed = True
            for known in self._versions.values():
                known.drop()
            self._versions.clear()

    def _is_look_due(self, now_s: float) -> bool:
        return self._due_at is not None and now_s >= self._due_at

    def _look_and_notify(self) -> None:
        try:
            self._look()
        finally:
            self._notify()

    def _look(self) -> None:
        """Ask the store, and fetch what is wanted; the caller has set `_is_looking`."""
        problem: Problem | None = Problem(f"{self._url}: the look at it failed", False)
        try:
            self._ask(self._options.open_store(self._url))
            problem = None
        except StoreError as error:
            problem = Problem(str(error), error.is_final)
            self._options.notes.look_failed(self._model)
            self._serve_from_cache()
        finally:
            with self._lock:
                self._is_looking = False
                self._looks += 1
                self._look_ended(problem)
                self._lock.notify_all()

    def _look_ended(self, problem: Problem | None) -> None:
        """Keep how a look has ended, and say when the next comes."""
        options = self._options
        self._failures = 0 if problem is None else self._failures + 1
        if problem is not None and (self._problem is None or self._problem.text != problem.text):
            logger.warning("model %s: %s", self._model, problem.text)
        self._problem = problem
        refuses = options.require_store and self._shown is None
        if problem is not None and (options.once or refuses):
            self._problem = problem._replace(is_final=True)
        if options.once:
            self._due_at = None
            return
        unsettled = any(
            known.verdict is not None and not known.verdict.files and not known.verdict.final
            for known in self._versions.values()
        )
        self._due_at = options.clock.now() + next_wait_s(
            options.schedule, self._failures, options.chance(), unsettled=unsettled
        )

    def _ask(self, store: Store) -> None:
        """Find out what the store has now, judge the versions that are wanted, and fetch them.

        Raises:
            StoreError: The store does not say.
        """
        listing = store.list_folder(self._url.path)
        now = base_of(listing)
        options = self._options
        if options.beside is not None:
            self._beside = keep_beside(
                *(options.beside, store, self._url, listing, options.cache, self._beside)
            )
        labels = ask_labels(store, self._url, listing, self._labels)
        with self._lock:
            served = [version for version, known in self._versions.items() if known.lease]
            believed = agreed(self._shown, now, served)
            for version in self._versions.keys() - believed.folders.keys():
                self._versions.pop(version).drop()
            if not self._closed:
                for version, name in believed.folders.items():
                    known = self._versions.setdefault(version, RemoteVersion(name))
                    # The cache knows numbers alone, and a store's name may begin with zeros.
                    known.folder_name = now.folders.get(version, known.folder_name)
            policy, failed = self._policy, frozenset(self._failed)
            versions = dict(self._versions)
            checks_all = self._looks % _LOOKS_BETWEEN_CHECKS == _LOOKS_BETWEEN_CHECKS - 1
            for known in versions.values() if checks_all else ():
                known.forgive()

        def is_whole(version: int) -> bool:
            known = versions.get(version)
            if known is None:
                return False
            if known.lease is not None and (
                version not in now.folders
                or (known.is_confirmed and not checks_all and version not in failed)
            ):
                return True
            return self._judge(store, version, known, has_failed=version in failed)

        wanted = aspired(believed.folders, policy, is_whole, self._labelled(labels))
        with self._lock:
            self._shown, self._believed, self._labels = now, believed, labels
            if not self._closed:
                self._want(wanted)
                self._remember()

    def _labelled(self, labels: KnownLabels | None) -> Collection[int]:
        return labels.labels.values() if labels is not None and self._keeps_labelled else ()

    def _judge(self, store: Store, version: int, known: RemoteVersion, *, has_failed: bool) -> bool:
        """List a version; return whether it is whole there, or the cache's copy goes on.

        Raises:
            StoreError: The store does not say.
        """
        examined = examine(
            store,
            self._url,
            known.folder_name,
            self._options,
            sight=known.sight,
            manifest=known.manifest,
        )
        with self._lock:
            known.listed(examined)
            if known.lease is None:
                return known.is_whole_there
            is_news = known.compare(has_failed=has_failed)
        if is_news:
            self._options.notes.version_changed(self._model)
            logger.warning(
                "model %s: version %d in %s was overwritten: what is served stays; publish what "
                "is new under a new number",
                *(self._model, version, self._url),
            )
        return True

    def _serve_from_cache(self) -> None:
        """Take what the cache has whole, in a start without the store; blocks while it is read."""
        with self._lock:
            if self._believed is not None or self._options.require_store or self._closed:
                return
            policy, keeps_labelled = self._policy, self._keeps_labelled
        taken, labels = recall(self._url, policy, self._options, keeps_labelled=keeps_labelled)
        with self._lock:
            if not taken or self._closed:
                for known in taken.values():
                    known.drop()
                return
            self._versions = taken
            folders = {version: known.folder_name for version, known in taken.items()}
            self._believed = Base(folders, frozenset(), frozenset())
            self._labels = KnownLabels("", labels)
        logger.warning(
            "model %s: without %s versions of the cache are served: %s",
            *(self._model, self._url, ", ".join(map(str, sorted(taken)))),
        )

    def _want(self, wanted: Mapping[int, str]) -> None:
        """Fetch what is wanted and not there, and give up the rest."""
        for version, known in self._versions.items():
            known.is_wanted = version in wanted
            if not known.is_wanted:
                known.cancelled.set()
                if version not in self._current:
                    known.release()
            elif known.lease is None and known.retry_at is None:
                self._submit_fetch(version, known)

    def _remember(self) -> None:
        leased = {v: known.leased for v, known in self._versions.items() if known.lease}
        if leased:
            labels = self._labels.labels if self._labels else {}
            self._options.cache.remember(self._url, Known(leased, labels))

    def _submit_fetch(self, version: int, known: RemoteVersion) -> None:
        verdict = known.verdict
        if known.is_fetching or verdict is None or not verdict.files or self._closed:
            return
        known.is_fetching = True
        known.cancelled = threading.Event()
        wanted = Wanted(self._url, version, known.folder_name, verdict.files, known.fingerprint)
        fetch = partial(self._fetch, version, known, wanted)
        if not self._options.fetches.submit(self._bucket, fetch):
            known.is_fetching = False
            self._fetch_failed(version, known, Problem(_NO_THREAD, False), Outcome())

    def _fetch(self, version: int, known: RemoteVersion, wanted: Wanted) -> None:
        """Bring a version into the cache, and keep how that has ended."""
        outcome = attempt(wanted, self._model, self._options, known.cancelled.is_set)
        lease = outcome.lease
        with self._lock:
            known.is_fetching = False
            if self._versions.get(version) is not known or self._closed:
                if lease is not None:
                    lease.release()
                return
            if lease is not None:
                known.take(lease, wanted.fingerprint)
                self._remember()
            elif outcome.problem is not None:
                self._fetch_failed(version, known, outcome.problem, outcome)
            elif known.is_wanted:  # it was given up, and is wanted again
                self._submit_fetch(version, known)
        self._notify()

    def _fetch_failed(
        self, version: int, known: RemoteVersion, problem: Problem, outcome: Outcome
    ) -> None:
        """Keep why a version did not come, and say when it is tried again."""
        options = self._options
        now_s = options.clock.now()
        is_news = known.problem is None or known.problem.text != problem.text
        if is_news and not outcome.waits:
            logger.warning("model %s: version %d: %s", self._model, version, problem.text)
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
            self._submit_fetch(version, known)
        else:
            known.problem = problem._replace(is_final=True)

    def _result(self) -> ScanResult:
        """Return what to state now; `_lock` is held."""
        if self._believed is None:
            return ScanResult(*(self._problem or Problem(f"{self._url} is being listed", False)))
        folders = self._believed.folders
        leases = {v: known.lease for v, known in self._versions.items() if known.lease}
        labelled = self._labelled(self._labels)
        whole = aspired(folders, self._policy, leases.__contains__, labelled)
        stated = next_aspired(folders, self._policy, whole, self._current)
        wanted: Mapping[int, Path] | None = None
        if stated is not None:
            wanted = {v: leases[v].path for v in stated if v in leases}
            if any(known.is_coming for known in self._versions.values()):
                wanted = {**self._current, **wanted}  # nothing goes before what is to follow it
            self._current = wanted
        missing = {v: why for v, known in self._versions.items() if (why := known.why_not())}
        told = problem_of(self._url, self._problem, self._shown, whole, missing)
        problem, is_final = told or (None, True)
        return ScanResult(
            problem,
            is_final,
            wanted,
            None if self._labels is None else self._labels.labels,
            (),
            {v: f"version {v} is not there: {why.text}" for v, why in missing.items()},
            None if self._labels is None else self._labels.changed_s,
        )
