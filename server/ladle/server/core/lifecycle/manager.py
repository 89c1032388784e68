"""The manager: takes aspired versions to being served and out again, and hands out handles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import InvalidArgument, NotFound
from ladle.server.core.lifecycle.changes import ChangeNotifier, Listener
from ladle.server.core.lifecycle.demand import Demand, Described
from ladle.server.core.lifecycle.registry import Registry, VersionStatus
from ladle.server.core.lifecycle.serving_map import Entry, Handle, ServingMap
from ladle.server.core.lifecycle.states import HOLDING, TransitionPolicy
from ladle.server.core.lifecycle.transitions import Loader, OtherProcesses, Transitions
from ladle.server.core.lifecycle.waiting import Waiting
from ladle.server.core.rollout.router import Router
from ladle.server.core.servable_id import ServableId


@dataclass(frozen=True, kw_only=True)
class ManagerOptions:
    """How versions come and go."""

    policy: TransitionPolicy = "availability_preserving"
    max_concurrent_loads: int = 16
    """Of all models together."""
    max_load_retries: int = 0
    """How often a version that failed is tried again by itself."""
    longest_retry_wait_s: float = 60.0
    """The bound of the waits between them; less than 0 tries at once."""
    max_waiting_requests: int = 8
    """How many requests may wait for first versions at a time, of all models together."""
    max_waiting_for_one: int | None = None
    """How many of them may wait for the same model; None sets no limit."""
    longest_request_wait_s: float = 60.0
    """How long each of them waits at most."""


class Manager:
    """Every version of every model, from aspired to unloaded. Thread-safe.

    A model's wanted versions are stated whole, by `aspire`. Each load and unload runs in a thread
    of its own, so that no model waits for another. Requests read one immutable map, which is
    replaced by a single assignment: they never wait for the manager.
    """

    def __init__(
        self,
        load: Loader,
        options: ManagerOptions | None = None,
        *,
        serving: ServingMap | None = None,
        others: OtherProcesses | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take how to load a version.

        Args:
            load: loads a version; blocks.
            options: how versions come and go.
            serving: where the manager publishes the versions that requests can have, for those
                who read the map and are made before the manager.
            others: processes that serve the same beside this one; None if there are none.
            clock: the time.
        """
        options = options or ManagerOptions()
        self._clock = clock or MonotonicClock()
        self._changes = ChangeNotifier()
        self._changed = self._changes.condition
        self._registry = Registry(options.policy)
        self._serving = serving or ServingMap()
        self._demand: Demand | None = None
        self.router = Router(self._serving)
        """Chooses the version for requests that name none."""
        self._transitions = Transitions(
            load,
            self._registry,
            self._serving,
            self._changes,
            self._clock,
            max_loads=options.max_concurrent_loads,
            max_retries=options.max_load_retries,
            longest_retry_wait_s=options.longest_retry_wait_s,
            others=others,
        )
        self._waiting = Waiting(
            self._registry,
            self._changes,
            self._clock,
            most=options.max_waiting_requests,
            most_for_one=options.max_waiting_for_one or options.max_waiting_requests,
            longest_s=options.longest_request_wait_s,
        )

    def add_listener(self, listener: Listener) -> None:
        """Have `listener` called after every change, from any thread, without a lock held."""
        self._changes.add_listener(listener)

    def load_on_demand(self, demand: Demand) -> None:
        """Have models loaded when requests ask for them; to be called before the first request."""
        self._demand = demand

    def expect(self, name: str) -> None:
        """Take note that a model is configured: requests for it may wait for its first version."""
        with self._changed:
            self._registry.expect(name)
            self._changes.record(name)
        self._changes.notify()

    def withdraw(self, name: str) -> None:
        """Unload all of a model, which is no longer configured; returns at once."""
        with self._changed:
            if self._registry.stopping:
                return
            self._registry.withdraw(name)
            self._serving.set_folder_labels(name, {})
            self._serving.publish(name, self._registry.versions(name))
            self._transitions.advance(name)
            self._registry.forget_withdrawn()
        self._changes.notify()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """State all the versions of a model that should be served, each with its folder.

        What is left out is unloaded; returns at once. Saying the same again changes nothing: a
        version that failed to load stays so until its retry is due, it has been left out, or its
        folder is another. Only one for whose load there was no thread is tried each time.
        """
        with self._changed:
            if self._registry.stopping:
                return
            if self._registry.aspire(name, versions):
                self._transitions.advance(name)
            self._transitions.advance_held_up()
        self._changes.notify()

    def failed(self, name: str) -> Collection[int]:
        """Return the aspired versions of a model that could not be loaded."""
        with self._changed:
            return self._registry.failed(name)

    def retry(self, name: str, version: int) -> None:
        """Load a version that has failed afresh; no other is touched."""
        with self._changed:
            entry = self._registry.versions(name).get(version)
            if entry is None or not self._registry.start_over(entry):
                return
            self._transitions.advance(name)
        self._changes.notify()

    def report(
        self,
        name: str,
        problem: str | None,
        *,
        final: bool,
        incomplete: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """Remember why versions of a model are missing.

        Args:
            name: the model.
            problem: why; None if none is missing.
            final: whether waiting alone won't change that.
            incomplete: why, of each version that is there and can't be loaded yet.
        """
        with self._changed:
            if not self._registry.report(name, problem, final=final, incomplete=incomplete):
                return
            self._changes.record(name)
        self._changes.notify()

    def acquire(self, name: str, version: int | None = None, *, is_use: bool = True) -> Handle:
        """Return a handle on a version, or on the highest one available; never blocks.

        `is_use`: whether the model counts as used, and so is not unloaded soon where others wait
        for its place.

        Raises:
            NotFound: No such version is available.
        """
        return self._serving.acquire(name, version, is_use=is_use)

    def wait_for_first(
        self,
        name: str,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
    ) -> bool:
        """Block while a configured model has its first version on the way.

        A model that is loaded on demand is loaded now. Returns False at once if there is nothing
        to wait for.

        Args:
            name: the model.
            deadline: a time of the clock's.
            on_end: has a callback called when the caller has gone; none is, by default.

        Raises:
            Cancelled: The caller has gone.
            DeadlineExceeded: The deadline passed.
            Unavailable: It took too long, or too many requests wait already.
            ServingError: It is loaded on demand, and that failed, or there is no room for it.
        """
        demand = self._demand
        if demand is None or not demand.knows(name) or name in self._serving:
            self._waiting.for_first(name, deadline, on_end)
            return name in self._serving
        began = self._clock.now()
        demand.want(name)
        self._waiting.for_first(name, deadline, on_end)
        demand.waited(self._clock.now() - began)
        if name not in self._serving:
            demand.explain(name)
        return name in self._serving

    def wait_for_version(
        self,
        name: str,
        version: int | None,
        label: str,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Block while a version is on the way behind others of a model that is loaded on demand.

        Returns at once if there is nothing to wait for. The arguments are as for `wait_for_first`;
        where there is no `version`, `label` says which.

        Raises:
            Cancelled: The caller has gone.
            DeadlineExceeded: The deadline passed.
            Unavailable: It took too long, or too many requests wait already.
        """
        if self._demand is None or not self._demand.knows(name):
            return
        if version is None and label:
            version = self.labels(name).get(label)
            if version is None:
                version = self._serving.folder_label(name, label)
        if version is not None:
            self._waiting.for_first(name, deadline, on_end, version)

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for first versions, at this moment."""
        return self._waiting.requests

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many requests wait for each model for which any does, at this moment."""
        with self._changed:
            return self._waiting.by_model()

    def waiting_for(self, name: str) -> int:
        """Return how many requests wait for a model, at this moment."""
        return self.waiting.get(name, 0)

    def holds(self, servable_id: ServableId) -> bool:
        """Whether a version takes memory: it loads, is available, or unloads."""
        with self._changed:
            entry = self._registry.versions(servable_id.name).get(servable_id.version)
            return entry is not None and entry.state in HOLDING

    def is_loading(self, name: str) -> bool:
        """Whether a version of a model loads, or is about to."""
        with self._changed:
            return self._registry.is_loading(name)

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all configured labels, of all models, at once: the version of each."""
        self._serving.set_labels(labels)

    def labelled(self, name: str, label: str) -> int:
        """Return the version that a label stands for, loaded or not; never blocks.

        Raises:
            InvalidArgument: The model has no such label.
            NotFound: It may have it: its first version is on the way, and only when that is
                available those of its folder are known.
        """
        serves = name in self._serving
        version = self.labels(name).get(label)
        if version is None and not serves and not self._serving.has_configured_labels(name):
            with self._changed:
                if self._registry.is_coming(name) or self.is_unloaded(name):
                    raise NotFound(f"Servable not found for request: Label({name}, {label})")
                version = self.labels(name).get(label)  # perhaps it has come since
        if version is None and serves and self._is_label_coming(name, label):
            raise NotFound(f"Servable not found for request: Label({name}, {label})")
        if version is None:
            raise InvalidArgument(f"Unrecognized servable version label: {label}")
        return version

    def _is_label_coming(self, name: str, label: str) -> bool:
        """Whether the version that a label is to be on loads behind others, on demand."""
        if self._demand is None or self._serving.has_configured_labels(name):
            return False
        version = self._serving.folder_label(name, label)
        if version is None:
            return False
        with self._changed:
            return self._registry.is_coming(name, version)

    def labels(self, name: str) -> Mapping[str, int]:
        """Return a model's labels: those configured or, where none are, those of its folder."""
        return self._serving.labels(name)

    def label(self, name: str, labels: Mapping[str, int], changed_s: float | None = None) -> None:
        """State the labels that lie in a model's folder, and when they were changed, if known.

        They count where none are configured. One comes into force when its version is available,
        and stays where it was until then.
        """
        with self._changed:
            if self._serving.set_folder_labels(name, labels, changed_s):
                self._serving.publish(name, self._registry.versions(name))

    def is_available(self, name: str, version: int | None = None) -> bool:
        """Whether a version can be had, or any of the model; never blocks."""
        return self._serving.is_available(name, version)

    def available(self) -> list[Entry]:
        """Return the versions that requests can have, to look at; never blocks."""
        return self._serving.available()

    def is_known(self, name: str) -> bool:
        """Whether a model is configured, or a version of it is still there."""
        if name in self._serving or (self._demand is not None and self._demand.knows(name)):
            return True  # the usual case, without a lock
        with self._changed:
            return self._registry.is_known(name)

    def names(self) -> list[str]:
        """Return the names of all models that are known."""
        with self._changed:
            return self._registry.names()

    def status(self, name: str) -> list[VersionStatus]:
        """Return what is known of a model's versions, the highest first; empty if nothing is."""
        with self._changed:
            return self._registry.status(name)

    def is_unloaded(self, name: str) -> bool:
        """Whether a request would have a model loaded; never blocks."""
        return self._demand is not None and self._demand.is_unloaded(name)

    def look(self, name: str) -> list[VersionStatus]:
        """As `status`; the versions of a model that is not loaded are looked for, which may block.

        Raises:
            Unavailable: The place where they lie does not answer.
        """
        if self._demand is not None and self._demand.is_unloaded(name):
            return self._demand.look(name)
        return self.status(name)

    def describe(self, name: str, version: int | None, label: str) -> Described | None:
        """Return what a version of a model that is not loaded says of itself; blocks a moment.

        None where the model is loaded, or that can only be told once it is. The arguments are as
        for `Demand.describe`.

        Raises:
            NotFound: The model has no such version.
            InvalidArgument: It has no such label.
            Unavailable: The place where its versions lie does not answer.
        """
        if self._demand is None or name in self.router.rollouts:
            return None  # a roll-out chooses among loaded versions
        return self._demand.describe(name, version, label)

    def problem(self, name: str) -> str | None:
        """Return why versions of a model are missing, or did not load; None if all is well."""
        with self._changed:
            return self._registry.problem(name)

    def is_settled(self, name: str) -> bool:
        """Whether a model has a version available, or nothing on the way that may become one."""
        with self._changed:
            return self._registry.is_settled(name)

    @property
    def transitions(self) -> int:
        """How many versions load, unload, or wait to load again, at this moment."""
        return len(self._transitions.threads)

    def wait_until(self, predicate: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Block until what the manager says makes `predicate` true; False if time passed first.

        `predicate` is called at once, and after each change of a version, of `transitions` or of
        `waiting_requests`. A lock is held meanwhile: it may ask the manager, and must not block.
        """
        with self._changed:
            return self._changed.wait_for(predicate, timeout_s)

    def wait_until_settled(self, names: Iterable[str], timeout_s: float | None) -> bool:
        """Block until each model has a version available, or has failed; False if time passed.

        A version that failed counts, even if it will be tried again. A model that was not scanned
        yet does not. The listeners have heard how the models stand when this returns.
        """
        names = list(names)
        settled = self._waiting.until_settled(names, timeout_s)
        # The thread that settled a model may be on its way to the listeners still.
        self._changes.tell(names)
        return settled

    def source_stopped(self) -> None:
        """Take note that nothing more will be aspired.

        Waiting for a model without a known version ends: there is none.
        """
        with self._changed:
            self._registry.source_stopped()
            self._changed.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Unload everything, waiting for the last handles; False if the time passed first.

        A load under way is left to itself: it can't be interrupted.
        """
        with self._changed:
            self._registry.stop()
            self._changed.notify_all()
            for name in self._registry.names():
                self._transitions.advance(name)
            deadline = self._clock.now() + timeout_s
            while (
                self._registry.holds_anything()
                and (remaining_s := deadline - self._clock.now()) > 0
            ):
                self._clock.wait(self._changed, remaining_s)
            unloaded = not self._registry.holds_anything() and not self._transitions.loads
        self._changes.notify()
        return unloaded
