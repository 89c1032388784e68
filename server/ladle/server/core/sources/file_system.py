"""The source: scans base paths, and states to the manager which versions are aspired."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from ladle.protos.files.versions import LABELS_NAME, read_labels
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import Unavailable
from ladle.server.core.sources.base_path import Base, BasePath, Check, ScanResult
from ladle.server.core.sources.scan_threads import ScanThreads
from ladle.server.core.sources.source import AspiredVersions, MonitoredModel
from ladle.server.core.sources.version_policy import aspired, numbered
from ladle.store.errors import StoreError
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

# A folder counts as stable after one poll without a change, but no later than this.
_LONGEST_STABLE_FOR_S = 2.0
# A scan takes milliseconds. A round waits so long for slower ones, all together, and then so long
# for each scan that comes after. Slower ones go on by themselves.
_ROUND_PATIENCE_S = 2.0
_LEAST_PATIENCE_S = 0.1
# A file system that has not answered for so long may never do.
_HANGS_AFTER_S = 30.0
# A scan that can't hang takes microseconds; another one of the same model may be under way.
_SHORT_PATIENCE_S = 1.0
# How long a rescan waits for the scan under way, and for its own.
_RESCAN_PATIENCE_S = 5.0


RemoteBases: TypeAlias = "Callable[[StoreUrl, str, Callable[[], None]], Base]"
"""Makes the base of a model in a store; takes the model's name, and what to call when a scan would
show something new."""


class _Watched:
    """A model whose base path is scanned, by one thread at a time.

    FileSystemSource._changed guards it.
    """

    def __init__(self, model: MonitoredModel, base: Base) -> None:
        self.model = model
        self.base = base
        self.scanned = False
        self.began: float | None = None
        """When the scan under way began; None while there is none."""


@dataclass
class _Turn:
    """Models that one thread scans, one after the other."""

    at: _Watched
    """The one that is being scanned."""
    pending: deque[_Watched]
    """Those that come next. Another thread takes them over if this one hangs."""


class FileSystemSource:
    """Polls the base paths of models and states what it finds, one model at a time. Thread-safe.

    A version counts once it is whole and stable; until then what is served stays. So it does
    while a base path can't be read, or does not answer, and the other models go on; upstream gives
    up the poll of all models then (tensorflow/serving issue 2189).
    """

    def __init__(
        self,
        manager: AspiredVersions,
        *,
        poll_wait_s: float,
        check: Check = lambda _: None,
        remote: RemoteBases | None = None,
        stored: Callable[[StoreUrl], Iterable[str]] = lambda _: (),
        clock: Clock | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Take how to scan; nothing is read before `start`.

        Args:
            manager: gets what there is, from threads of the source's.
            poll_wait_s: seconds between polls; 0 scans each model once, without waiting until
                files are stable; less scans only by `rescan`.
            check: says what a folder lacks.
            remote: makes the bases of models that lie in stores; None where none may.
            stored: lists the folders of a place in a store; blocks.
            clock: for tests.
            wall: seconds since 1970, for tests.
        """
        self._manager = manager
        self._poll_wait_s = poll_wait_s
        self._stable_for_s = min(max(poll_wait_s, 0.0), _LONGEST_STABLE_FOR_S)
        self._check = check
        self._remote = remote
        self._stored = stored
        self._clock = clock or MonotonicClock()
        self._wall = wall
        self._scan_threads = ScanThreads(self._clock)
        self._changed = threading.Condition()
        # Guarded by _changed.
        self._watched: dict[str, _Watched] = {}
        self._due = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    def set_models(self, models: Iterable[MonitoredModel]) -> None:
        """Watch just these models from now on; returns at once.

        Models left out are withdrawn. New ones, and those whose base path or policy is another,
        are scanned without waiting for the next poll.
        """
        wanted = {model.name: model for model in models}
        with self._changed:
            for name in self._watched.keys() - wanted.keys():
                self.unwatch(name)
            for name, model in wanted.items():
                self.watch(model)
                if self._poll_wait_s < 0 and not self._watched[name].scanned:
                    unseen = "its base path is not scanned before RescanModel asks for it"
                    self._manager.report(name, unseen, final=True)
            self._due = True
            self._changed.notify_all()

    def watch(self, model: MonitoredModel) -> None:
        """Watch one model more, or by another base path or policy; returns at once.

        It is scanned by `scan`, or at the next poll.
        """
        with self._changed:
            known = self._watched.get(model.name)
            if known is None or known.model.base_path != model.base_path:
                if known is not None:
                    known.base.close()
                self._watched[model.name] = _Watched(model, self._base(model))
            elif known.model != model:
                known.model = model
                known.scanned = False

    def unwatch(self, name: str) -> None:
        """Watch one model less: it is withdrawn. Returns at once."""
        with self._changed:
            watched = self._watched.pop(name, None)
            if watched is not None:
                watched.base.close()
                self._manager.withdraw(name)

    def scan(self, name: str) -> None:
        """Scan a model that was not scanned yet, in the caller's time; blocks for some seconds.

        A scan that takes longer goes on by itself.
        """
        with self._changed:
            watched = self._watched.get(name)
            if watched is None or watched.scanned or self._stopped:
                return
        if not watched.base.may_hang:
            if self._claim(watched, _SHORT_PATIENCE_S):
                self._scan_and_report(watched)
        elif not (self._claim(watched, 0.0) and self._scan(watched, _RESCAN_PATIENCE_S)):
            self._report_hanging(watched)

    def versions(self, model: MonitoredModel) -> Mapping[int, str]:
        """Return the versions in a model's folder that its policy wants, with their folders' names.

        They may be incomplete.

        Raises:
            Unavailable: The base path does not answer.
        """
        found: list[str] = []
        labels: dict[str, int] = {}
        problems: list[str] = []

        def look() -> None:
            try:
                names, beside = self._look(model)
            except (OSError, ValueError, StoreError) as error:
                problems.append(f"{model.base_path}: {error}")
            else:
                found.extend(names)
                labels.update(beside)

        if self._scan_threads.are_all_hanging or not self._scan_threads.run(
            look, _RESCAN_PATIENCE_S
        ):
            raise Unavailable(f"model {model.name}: {model.base_path} does not answer")
        if problems and isinstance(model.base_path, StoreUrl):
            raise Unavailable(f"model {model.name}: {problems[0]}")
        return aspired(numbered(found), model.policy, labelled=labels.values())

    def _look(self, model: MonitoredModel) -> tuple[Iterable[str], Mapping[str, int]]:
        """Return what lies in a model's folder, and the labels beside its versions.

        Of a model in a store the labels are not looked for: each would cost a request.
        """
        base_path = model.base_path
        if isinstance(base_path, StoreUrl):
            return self._stored(base_path), {}
        names = os.listdir(base_path)
        if not model.keeps_labelled or LABELS_NAME not in names:
            return names, {}
        return names, read_labels(base_path)

    def start(self) -> None:
        """Scan once, in the caller's time, then go on in a thread."""
        if self._poll_wait_s < 0:
            return
        self.step()
        self._thread = threading.Thread(target=self._run, name="file system source", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End polling; waits a moment for the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        self._scan_threads.close()
        with self._changed:
            bases = [watched.base for watched in self._watched.values()]
        for base in bases:
            base.close()
        self._manager.source_stopped()

    def step(self, *, only_new: bool = False) -> None:
        """Scan every base path once, or only those not scanned yet.

        One that does not answer is left to itself after a while, and is not scanned again before
        it does.
        """
        with self._changed:
            self._due = False
            watched = [w for w in self._watched.values() if not (only_new and w.scanned)]
            watched = [w for w in watched if not w.scanned or w.base.is_due()]
        until = self._clock.now() + _ROUND_PATIENCE_S
        for one in watched:
            if self._stopped:
                return
            if not one.base.may_hang and self._claim(one, _SHORT_PATIENCE_S):
                self._scan_and_report(one)
        pending = deque(one for one in watched if one.base.may_hang)
        while pending and not self._stopped:
            first = pending.popleft()
            if not self._claim(first, 0.0):
                self._report_hanging(first)
                continue
            # All in one thread, as long as each answers: to wake one for each costs more than a
            # scan.
            turn = _Turn(first, pending)
            patience_s = max(_LEAST_PATIENCE_S, until - self._clock.now())
            if not self._scan_threads.run(partial(self._scan_in_turn, turn), patience_s):
                self._report_hanging(turn.at)

    def rescan(self, name: str) -> bool:
        """Scan one model's base path now, and try its failed versions again.

        Returns False if no such model is watched.

        Raises:
            Unavailable: The base path does not answer.
        """
        with self._changed:
            watched = self._watched.get(name)
        if watched is None:
            return False
        if not (
            self._refresh(watched)
            and self._claim(watched, _RESCAN_PATIENCE_S)
            and self._scan(watched, _RESCAN_PATIENCE_S)
        ):
            raise Unavailable(f"model {name}: {_no_answer(watched)}; try again later")
        for version in self._manager.failed(name):
            self._manager.retry(name, version)
        return True

    def _base(self, model: MonitoredModel) -> Base:
        if isinstance(model.base_path, StoreUrl):
            if self._remote is None:
                raise ValueError(f"no store can be read here: {model.base_path}")
            return self._remote(model.base_path, model.name, partial(self._came, model.name))
        return BasePath(
            model.base_path,
            self._check,
            stable_for_s=self._stable_for_s,
            clock=self._clock,
            wall=self._wall,
        )

    def _refresh(self, watched: _Watched) -> bool:
        """Have the next scan show what is there now; False if that takes too long."""
        return watched.base.may_hang or self._scan_threads.run(
            watched.base.refresh, _RESCAN_PATIENCE_S
        )

    def _came(self, name: str) -> None:
        """Scan a model that has something new, in the caller's thread."""
        with self._changed:
            watched = self._watched.get(name)
        if watched is not None and self._claim(watched, _RESCAN_PATIENCE_S):
            self._scan_and_report(watched)

    def _claim(self, watched: _Watched, wait_s: float) -> bool:
        """Be the one to scan; False if another scan goes on for longer than that."""
        if watched.base.may_hang and self._scan_threads.are_all_hanging:
            return False
        until = self._clock.now() + wait_s
        with self._changed:
            while watched.began is not None:
                remaining_s = until - self._clock.now()
                if remaining_s <= 0:
                    return False
                self._clock.wait(self._changed, remaining_s)
            watched.began = self._clock.now()
            watched.scanned = True
        return True

    def _scan(self, watched: _Watched, patience_s: float) -> bool:
        """Scan what was claimed; False if that goes on."""
        return self._scan_threads.run(partial(self._scan_and_report, watched), patience_s)

    def _scan_in_turn(self, turn: _Turn) -> None:
        """Scan the model that was claimed, and then those that are pending."""
        self._scan_and_report(turn.at)
        while not self._stopped:
            try:
                one = turn.pending.popleft()
            except IndexError:
                return
            if self._claim(one, 0.0):
                turn.at = one
                self._scan_and_report(one)
            else:
                self._report_hanging(one)

    def _scan_and_report(self, watched: _Watched) -> None:
        model = watched.model
        found: ScanResult | None = None
        try:
            found = watched.base.scan(
                model.policy,
                self._manager.failed(model.name),
                keeps_labelled=model.keeps_labelled,
            )
        finally:
            with self._changed:
                watched.began = None
                self._due = self._due or not watched.scanned  # its policy is another by now
                self._changed.notify_all()
                # If it is not watched, it was withdrawn meanwhile, or moved.
                if (
                    found is not None
                    and self._watched.get(model.name) is watched
                    and not self._stopped
                ):
                    self._report(model.name, found)

    def _report(self, name: str, found: ScanResult) -> None:
        if found.labels is not None:
            self._manager.label(name, found.labels, found.labelled_s)
        if found.wanted is not None:
            self._manager.aspire(name, found.wanted)
        self._manager.report(name, found.problem, final=found.final, incomplete=found.incomplete)
        for version in found.repaired:
            self._manager.retry(name, version)

    def _report_hanging(self, watched: _Watched) -> None:
        with self._changed:
            name = watched.model.name
            if watched.began is not None and self._watched.get(name) is watched:
                final = self._clock.now() - watched.began >= _HANGS_AFTER_S
                self._manager.report(name, _no_answer(watched), final=final)

    def _run(self) -> None:
        while True:
            with self._changed:
                until = self._clock.now() + self._poll_wait_s
                while not self._stopped and not self._due:
                    remaining_s = until - self._clock.now() if self._poll_wait_s else None
                    if remaining_s is not None and remaining_s <= 0:
                        break
                    self._clock.wait(self._changed, remaining_s)
                if self._stopped:
                    return
                only_new = self._due or not self._poll_wait_s
            try:
                self.step(only_new=only_new)
            except Exception:
                logger.exception("a scan of the base paths failed")


def _no_answer(watched: _Watched) -> str:
    return f"base path {watched.model.base_path} does not answer: a scan of it is still under way"
