"""A model's base in a store: asks it, and fetches what is wanted, in threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial

from ladle.server.core.remote.asking import ask_labels
from ladle.server.core.remote.attempt import Outcome, attempt, recall
from ladle.server.core.remote.beside import keep_beside
from ladle.server.core.remote.decisions import base_of
from ladle.server.core.remote.examining import examine
from ladle.server.core.remote.fetching import Wanted
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.problems import Problem
from ladle.server.core.remote.state import BaseState
from ladle.server.core.remote.version import RemoteVersion
from ladle.server.core.sources.base_path import ScanResult
from ladle.server.core.sources.version_policy import VersionPolicy, aspired
from ladle.store.errors import StoreError
from ladle.store.store import Store
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

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
        self._state = BaseState(url, options)
        self._is_looking = False

    def is_due(self) -> bool:
        """Whether a scan would do more than the last one."""
        now_s = self._options.clock.now()
        with self._lock:
            return self._state.is_due(now_s)

    def refresh(self) -> None:
        """Look at the store now; blocks."""
        with self._lock:
            while self._is_looking:
                self._lock.wait()
            if self._state.is_closed:
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
            state = self._state
            state.ask_for(policy, failed, keeps_labelled=keeps_labelled)
            begins = state.is_look_due(now_s) and not self._is_looking and not state.is_closed
            self._is_looking |= begins
            for version, known in state.versions.items():
                if known.is_to_retry(now_s):
                    self._submit_fetch(version, known)
            result = state.result()
        if begins and not self._options.looks.submit(self._bucket, self._look_and_notify):
            with self._lock:
                self._look_ended(Problem(f"{self._url}: {_NO_THREAD}", False))
                result = self._state.result()
        return result

    def close(self) -> None:
        """Give up what is under way, and the claims on the cache."""
        with self._lock:
            self._state.close()

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
                self._look_ended(problem)

    def _look_ended(self, problem: Problem | None) -> None:
        """Let others look from now on; the lock is held."""
        self._is_looking = False
        if self._state.look_ended(problem) and problem is not None:
            logger.warning("model %s: %s", self._model, problem.text)
        self._lock.notify_all()

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
        labels = ask_labels(store, self._url, listing, self._state.labels)
        with self._lock:
            believed, policy, failed, versions, checks_all = self._state.look_began(now)

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

        wanted = aspired(believed.folders, policy, is_whole, self._state.labelled(labels))
        with self._lock:
            self._state.look_found(now, believed, labels)
            if not self._state.is_closed:
                for version, known in self._state.want(wanted):
                    self._submit_fetch(version, known)
                self._remember()

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
            state = self._state
            if not state.is_unknown or self._options.require_store or state.is_closed:
                return
            policy, keeps_labelled = state.policy, state.keeps_labelled
        taken, labels = recall(self._url, policy, self._options, keeps_labelled=keeps_labelled)
        with self._lock:
            if not taken or state.is_closed:
                for known in taken.values():
                    known.drop()
                return
            state.recalled(taken, labels)
        logger.warning(
            "model %s: without %s versions of the cache are served: %s",
            *(self._model, self._url, ", ".join(map(str, sorted(taken)))),
        )

    def _remember(self) -> None:
        known = self._state.to_remember()
        if known is not None:
            self._options.cache.remember(self._url, known)

    def _submit_fetch(self, version: int, known: RemoteVersion) -> None:
        """Have a version fetched; the lock is held."""
        verdict = known.verdict
        if known.is_fetching or verdict is None or not verdict.files or self._state.is_closed:
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
            if self._state.versions.get(version) is not known or self._state.is_closed:
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
        is_news = known.problem is None or known.problem.text != problem.text
        if is_news and not outcome.waits:
            logger.warning("model %s: version %d: %s", self._model, version, problem.text)
        if self._state.fetch_failed(known, problem, outcome):
            self._submit_fetch(version, known)
