"""The models that are loaded where not all are: loads on demand, and what makes room for them.

Of all that are configured only the residents have a base path that is scanned, and versions in the
manager. So a model that is not loaded costs a line in a dict.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import without_folder
from ladle.server.core.lifecycle.demand import Described
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.registry import VersionStatus
from ladle.server.core.lifecycle.serving_map import Entry
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models import residency
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.failures import Failure, failure_of, no_bytes, no_place
from ladle.server.core.models.footprints import Footprints
from ladle.server.core.models.residency import Full, ResidencyOptions, Resident
from ladle.server.core.models.unloaded import Reader, Unloaded
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.source import Source

logger = logging.getLogger(__name__)

_SWEEP_S = 1.0
# A model that nobody waits for, and that has not come up for so long, gives its place up.
_LONGEST_LOAD_S = 600.0

Cause: TypeAlias = "Literal['start', 'request', 'call']"
"""Why a model is loaded: it is pinned; a request asks for it; LoadModel does."""
Reason: TypeAlias = "Literal['room', 'idle', 'gone']"
"""Why a model is unloaded: to make room; nobody asks for it; its versions have gone."""


class Notes(Protocol):
    """Hears of models that come and go. Nothing may block."""

    def load_wanted(self, cause: Cause) -> None:
        """A model is about to be loaded."""

    def model_unloaded(self, reason: Reason) -> None:
        """A model is about to be unloaded."""

    def request_waited(self, seconds: float) -> None:
        """A request has waited for its model."""


@dataclass
class _Known:
    """A resident, as far as it is remembered between two looks."""

    model: ModelConfig
    since: float
    """When it was wanted."""
    idle_since: float
    loaded_at: float | None = None
    last_use: int = 0


class Residents:
    """Loads models on demand, and unloads others to make room. Thread-safe.

    Order of calls: `start` and `stop`. `step` is what the thread does, once a second and after each
    change of a model.
    """

    def __init__(
        self,
        manager: Manager,
        source: Source,
        options: ResidencyOptions,
        notes: Notes,
        *,
        read: Reader = lambda _: None,
        pinned: Collection[str] = (),
        longest_retry_wait_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        """Take what loads and unloads; nothing is loaded yet.

        Args:
            manager: has the versions.
            source: scans the base paths of residents.
            options: how many there may be.
            notes: hears of loads and unloads.
            read: returns what the version in a folder says of itself; None if it can't tell.
            pinned: the names of models that are always loaded, if they are configured.
            longest_retry_wait_s: the bound of the waits between two loads of a model that fails.
            clock: the time.
        """
        self._manager = manager
        self._source = source
        self._options = options
        self._notes = notes
        self._unloaded = Unloaded(source, read)
        self._pinned = frozenset(pinned)
        self._longest_retry_wait_s = longest_retry_wait_s
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        """Held around each decision. The source's and the manager's may be taken inside."""
        # Replaced as a whole under the lock, read without it.
        self._models: Mapping[str, ModelConfig] = {}
        self._always: frozenset[str] = frozenset()
        # Changed under the lock; whether a name is in them is asked without it.
        self._residents: dict[str, _Known] = {}
        self._failures: dict[str, Failure] = {}
        self._footprints = Footprints()
        # Its own lock, which nothing is taken inside: changes are told under the source's.
        self._wake = threading.Condition(threading.Lock())
        self._changed = False
        self._stopped = False
        self._thread: threading.Thread | None = None

    # What is configured

    def set_models(self, models: Mapping[str, ModelConfig]) -> None:
        """Know just these models from now on; those that are left out are unloaded."""
        with self._lock:
            before, self._models = self._models, dict(models)
            self._always = self._pinned & models.keys()
            for name in [n for n in self._failures if models.get(n) != before.get(n)]:
                del self._failures[name]
            self._footprints.forget_models(before.keys() - models.keys())
            for name, known in list(self._residents.items()):
                model = models.get(name)
                if model is None:
                    del self._residents[name]
                    self._source.unwatch(name)
                elif model != known.model:
                    known.model = model
                    self._source.watch(model.monitored)
            new = sorted(self._always - self._residents.keys())
            for name in new:
                self._begin(name, "start")
        for name in new:
            self._source.scan(name)

    @property
    def wanted(self) -> frozenset[str]:
        """The models that should be loaded whether anyone asks for them or not; never blocks."""
        return self._always

    def rescan(self, name: str) -> bool:
        """Scan a model's base path now; of one that is not loaded forget why it could not be.

        Returns False if no such model is configured.

        Raises:
            Unavailable: The base path does not answer.
        """
        with self._lock:
            self._failures.pop(name, None)
            if name not in self._residents:
                return name in self._models
        return self._source.rescan(name)

    # What the manager asks, as its Demand

    def knows(self, name: str) -> bool:
        """Whether a model is configured, loaded or not; never blocks."""
        return name in self._models

    def is_unloaded(self, name: str) -> bool:
        """Whether a model is configured and no resident; never blocks."""
        return name in self._models and name not in self._residents

    def want(self, name: str, cause: Cause = "request") -> None:
        """Have a model loaded, unless it is loaded or on its way; does not wait for the load.

        May block for a moment, for a look at the model's folder. Does nothing for a model that is
        not configured.

        Raises:
            ResourceExhausted: There is no room for it, and none can be made now.
            ServingError: It could not be loaded a moment ago; the message says why.
        """
        with self._lock:
            if name not in self._models:
                return
            if name in self._residents:
                self._give_up_if_failed(name)
            if name in self._residents:
                return
            self._refuse_failed(name)
            most = self._options.max_models
            if most and len(self._residents) >= most:
                entries = _by_model(self._manager.available())
                self._look(entries)
                full = residency.begin(self._snapshot(entries), self._options)
                if full is not None:
                    raise no_place(name, full, self._options)
            self._refuse_large(name)
            self._begin(name, cause)
        self._source.scan(name)

    def explain(self, name: str) -> None:
        """Raise why a model that was wanted is not there; return if nothing is known of that.

        Raises:
            ServingError: The model could not be loaded; the message says why.
        """
        with self._lock:
            if name in self._residents:
                self._give_up_if_failed(name)
            self._refuse_failed(name)

    def waited(self, seconds: float) -> None:
        """Take note of how long a request has waited for its model."""
        self._notes.request_waited(seconds)

    def describe(self, name: str, version: int | None, label: str) -> Described | None:
        """Return what a model that is not loaded says of itself; see `Demand`."""
        model = self._models.get(name)
        if model is None or name in self._residents:
            return None
        return self._unloaded.describe(model, version, label)

    def look(self, name: str) -> list[VersionStatus]:
        """Return the versions of a model that is not loaded, the highest first; blocks a moment.

        They are in the state START: a request would begin their load. The first one's error says
        why a load has failed of late.

        Raises:
            Unavailable: The place where the versions lie does not answer.
        """
        model = self._models.get(name)
        if model is None:
            return []
        failure = self._failures.get(name)
        error = failure and failure.as_error(name, self._clock.now())
        return self._unloaded.statuses(model, error)

    # How many there are

    @property
    def count(self) -> int:
        """How many models are loaded, or about to be."""
        return len(self._residents)

    @property
    def known(self) -> int:
        """How many models are configured."""
        return len(self._models)

    def model_changed(self, _name: str) -> None:
        """Look soon, because something about a model may have changed; never blocks."""
        if not self._options.max_models:
            return  # nothing goes because another one has come
        with self._wake:
            self._changed = True
            self._wake.notify_all()

    def start(self) -> None:
        """Look from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="residents", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; returns at once."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()

    def step(self) -> None:
        """Unload what has to go: what could not be loaded, what is too much, and what is idle."""
        with self._lock:
            entries = _by_model(self._manager.available())
            self._look(entries)
            # There may be thousands of residents: nothing is gathered that no limit asks for.
            if 0 < self._options.max_models < len(self._residents):
                for name in residency.surplus(self._snapshot(entries), self._options):
                    self._unload(name, "room")
            if self._options.idle_s:
                for name in residency.idle(self._snapshot(entries), self._options):
                    self._unload(name, "idle")

    def make_room(self, servable_id: ServableId, nbytes: int) -> list[ServableId]:
        """Have others unloaded before a version loads; return those that have to go first.

        Returns at once. `measured` has to follow.

        Args:
            servable_id: the version.
            nbytes: what it takes of the heap, where it was not measured at an earlier load.

        Raises:
            ResourceExhausted: There is no room for it, and none can be made now.
        """
        name = servable_id.name
        with self._lock:
            self._footprints.keep(self._manager.holds)
            needed = self._footprints.expected(servable_id, nbytes)
            entries = _by_model(self._manager.available())
            self._look(entries)
            decision = residency.make_room(self._snapshot(entries), name, needed, self._options)
            if isinstance(decision, Full):
                raise no_bytes(name, needed, decision, self._options)
            for victim in decision:
                self._unload(victim, "room")
            leaving = self._footprints.leaving(self._residents)
            self._footprints.reserve(servable_id, needed)
            return leaving if self._options.max_bytes else []

    def measured(self, servable_id: ServableId, nbytes: int | None) -> None:
        """Take note of what a version has taken of the heap; None: it could not be loaded."""
        with self._lock:
            self._footprints.note(servable_id, nbytes)

    @property
    def nbytes(self) -> int:
        """What all loaded versions have taken of the heap."""
        with self._lock:
            self._footprints.keep(self._manager.holds)
            return self._footprints.total

    # With the lock held

    def _begin(self, name: str, cause: Cause) -> None:
        model, now = self._models[name], self._clock.now()
        self._residents[name] = _Known(model, since=now, idle_since=now)
        self._notes.load_wanted(cause)
        self._manager.expect(name)
        self._source.watch(model.monitored)

    def _unload(self, name: str, reason: Reason) -> None:
        was_loaded = self._residents.pop(name).loaded_at is not None
        if was_loaded:
            self._notes.model_unloaded(reason)
            left = len(self._residents)
            logger.info("unloading model=%s reason=%s loaded=%d", name, reason, left)
        self._source.unwatch(name)

    def _look(self, entries: Mapping[str, list[Entry]]) -> None:
        """Take note of what has become of the residents since the last look."""
        now = self._clock.now()
        for name, known in list(self._residents.items()):
            loaded = entries.get(name)
            if loaded is None:
                self._look_at_unloaded(name, known, now)
                continue
            last_use = max([entry.last_use for entry in loaded])
            if known.loaded_at is None:
                known.loaded_at = now
                self._failures.pop(name, None)
                known.last_use, known.idle_since = last_use, now
            elif last_use != known.last_use or any(entry.handles for entry in loaded):
                known.last_use, known.idle_since = last_use, now

    def _look_at_unloaded(self, name: str, known: _Known, now: float) -> None:
        if known.loaded_at is not None:  # its versions were taken away
            known.loaded_at, known.since = None, now
        self._give_up_if_failed(name)
        if (
            name in self._residents
            and name not in self._always
            and now - known.since >= _LONGEST_LOAD_S
            and not self._manager.waiting_for(name)
            and not self._manager.is_loading(name)
        ):
            self._unload(name, "gone")

    def _give_up_if_failed(self, name: str) -> None:
        """Remember why a resident could not be loaded, and have it no longer."""
        if name in self._always or not self._manager.is_settled(name):
            return
        if self._manager.is_available(name):  # asked last: it may have come just now
            return
        statuses = self._manager.status(name)
        error = next((s.error for s in statuses if s.error and s.state is State.END), None)
        before = self._failures.get(name)
        problem = self._manager.problem(name) or "no version of it is available"
        model = self._models.get(name)
        self._failures[name] = failure_of(
            error,
            problem if model is None else without_folder(problem, model.base_path),
            before.attempt + 1 if before else 0,
            self._clock.now(),
            self._longest_retry_wait_s,
        )
        self._unload(name, "gone")

    def _refuse_large(self, name: str) -> None:
        """Refuse a model for which there was no room, by what it took when it was loaded last."""
        size = self._footprints.last(name)
        if not self._options.max_bytes or size is None:
            return
        self._footprints.keep(self._manager.holds)
        entries = _by_model(self._manager.available())
        self._look(entries)
        decision = residency.make_room(self._snapshot(entries), name, size, self._options)
        if isinstance(decision, Full):
            raise no_bytes(name, size, decision, self._options)

    def _refuse_failed(self, name: str) -> None:
        failure = self._failures.get(name)
        now = self._clock.now()
        if failure is not None and now < failure.due:
            raise failure.as_error(name, now)

    def _snapshot(self, entries: Mapping[str, list[Entry]]) -> list[Resident]:
        now, waiting = self._clock.now(), self._manager.waiting
        found = []
        taken = self._footprints.by_model()
        for name, known in self._residents.items():
            loaded = entries.get(name, ())
            found.append(
                Resident(
                    name,
                    None if known.loaded_at is None else now - known.loaded_at,
                    known.last_use,
                    now - known.idle_since,
                    name in waiting or any(entry.handles for entry in loaded),
                    name in self._always,
                    taken.get(name, 0),
                )
            )
        return found

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopped and not self._changed:
                    self._clock.wait(self._wake, _SWEEP_S)
                if self._stopped:
                    return
                self._changed = False
            try:
                self.step()
            except Exception:
                logger.exception("a look at the loaded models failed")


def _by_model(available: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in available:
        found.setdefault(entry.id.name, []).append(entry)
    return found
