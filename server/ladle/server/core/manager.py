"""The manager: takes aspired versions to being served and out again, and hands out handles."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.entry import Entry, Handle, Serving
from ladle.server.core.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ServingError,
    Unavailable,
)
from ladle.server.core.lifecycle import (
    Load,
    State,
    TransitionPolicy,
    Unload,
    VersionSnapshot,
    next_action,
    retry_wait_s,
)
from ladle.server.core.servable import Servable, ServableId
from ladle.server.core.versions import settled_labels

logger = logging.getLogger(__name__)

# How many versions that have ended a model's status remembers, and how many models that were
# withdrawn; upstream keeps all for ever, and its answers grow without end (its issue 1488).
_REMEMBERED_ENDINGS = 16
_REMEMBERED_MODELS = 64

Loader = Callable[[ServableId, Path], Servable]
"""Loads a version from its folder, warm-up included; blocks, and raises ServingError."""

Listener = Callable[[str], None]
"""Told a model's name after something about it may have changed; it asks for itself what."""


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
    longest_request_wait_s: float = 60.0
    """How long each of them waits at most."""


class VersionStatus(NamedTuple):
    """What GetModelStatus tells of a version."""

    version: int
    state: State
    error: ServingError | None


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
        clock: Clock | None = None,
    ) -> None:
        self._load = load
        self._options = options or ManagerOptions()
        self._clock = clock or MonotonicClock()
        self._changed = threading.Condition()
        self._models: dict[str, dict[int, Entry]] = {}
        self._serving: Mapping[str, Serving] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self._folder_labels: dict[str, Mapping[str, int]] = {}  # as they lie beside the versions
        self._threads: set[threading.Thread] = set()
        self._loads = 0
        self._held_up: dict[str, None] = {}  # models that wait for the place of a load, or a thread
        self._expected: set[str] = set()  # models of which nothing has been seen yet
        self._problems: dict[str, tuple[str, bool]] = {}
        self._withdrawn: dict[str, None] = {}
        self._waiting_requests = 0
        self._source_stopped = False
        self._stopping = False
        self._listeners: list[Listener] = []
        self._untold: dict[str, None] = {}

    def add_listener(self, listener: Listener) -> None:
        """Have `listener` told of every change; called from any thread, without a lock held."""
        self._listeners.append(listener)

    def expect(self, name: str) -> None:
        """Take note that a model is configured: requests for it may wait for its first version."""
        with self._changed:
            self._withdrawn.pop(name, None)
            if not any(entry.aspired for entry in self._models.get(name, {}).values()):
                self._expected.add(name)
            self._untold[name] = None
        self._tell()

    def withdraw(self, name: str) -> None:
        """Unload all of a model, which is no longer configured; returns at once."""
        with self._changed:
            if self._stopping:
                return
            self._folder_labels.pop(name, None)
            self._expected.discard(name)
            self._problems.pop(name, None)
            self._withdrawn[name] = None
            for entry in self._models.get(name, {}).values():
                entry.aspired = False
            self._publish(name)
            self._advance(name)
            self._forget_withdrawn()
        self._tell()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """State all the versions of a model that should be served, each with its folder.

        What is left out is unloaded; returns at once. Saying the same again changes nothing: a
        version that failed to load stays so until its retry is due, it has been left out, or its
        folder is another. Only one for whose load there was no thread is tried each time.
        """
        with self._changed:
            if self._stopping:
                return
            changed = False
            if versions and name in self._expected:
                self._expected.discard(name)
                changed = True
            model = self._models.setdefault(name, {})
            for version, path in versions.items():
                known = model.get(version)
                if known is None or known.should_start_over(path):
                    model[version] = Entry(ServableId(name, version), path)
                    changed = True
                elif not known.aspired:
                    known.aspired = changed = True
            for version, entry in model.items():
                if entry.aspired and version not in versions:
                    entry.aspired = False
                    changed = True
            if changed:
                self._advance(name)
            self._advance_held_up()
        self._tell()

    def failed(self, name: str) -> Collection[int]:
        """Return the aspired versions of a model that could not be loaded."""
        with self._changed:
            return [v for v, entry in self._models.get(name, {}).items() if entry.has_failed]

    def retry(self, name: str, version: int) -> None:
        """Load a version that has failed afresh; no other is touched."""
        with self._changed:
            entry = self._models.get(name, {}).get(version)
            if entry is None or not entry.has_failed or self._stopping:
                return
            self._models[name][version] = Entry(entry.id, entry.path)
            self._advance(name)
        self._tell()

    def report(self, name: str, problem: str | None, *, final: bool) -> None:
        """Remember why versions of a model are missing; `final`: waiting alone won't mend it."""
        with self._changed:
            if problem is None:
                if self._problems.pop(name, None) is None:
                    return
            elif self._problems.get(name) != (problem, final):
                self._problems[name] = (problem, final)
                logger.log(logging.WARNING if final else logging.INFO, "%s model=%s", problem, name)
            else:
                return
            self._untold[name] = None
            self._changed.notify_all()
        self._tell()

    def acquire(self, name: str, version: int | None = None) -> Handle:
        """Return a handle on a version, or on the highest one available; never blocks.

        Raises:
            NotFound: No such version is available.
        """
        while True:
            serving = self._serving.get(name)
            found = serving and serving.find(version)
            if not found:
                # "Servable" is what clients and readiness probes of upstream look for.
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise NotFound(f"Servable not found for request: {wanted}")
            if found.retain():
                return Handle(found)
            # It was quiesced since the look-up; the map has been replaced before that.

    def wait_for_first(
        self,
        name: str,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
    ) -> bool:
        """Block while a configured model has its first version on the way.

        Returns False at once if there is nothing to wait for.

        Args:
            name: the model.
            deadline: a time of the clock's.
            on_end: has a callback called when the caller has gone; none is, by default.

        Raises:
            Cancelled: The caller has gone.
            DeadlineExceeded: The deadline passed.
            Unavailable: It took too long, or too many requests wait already.
        """
        limit = self._clock.now() + self._options.longest_request_wait_s
        until = limit if deadline is None else min(limit, deadline)
        gone = threading.Event()

        def leave() -> None:
            gone.set()
            with self._changed:
                self._changed.notify_all()

        with self._changed:
            if not self._is_coming(name):
                return name in self._serving
        if on_end is not None:
            on_end(leave)  # without the lock: whoever calls back may hold one of its own
        with self._changed:
            if self._waiting_requests >= self._options.max_waiting_requests:
                raise _loading(
                    f"model {name} is still loading, and {self._waiting_requests} requests "
                    "wait already: try again"
                )
            self._waiting_requests += 1
            try:
                while self._is_coming(name):
                    remaining = until - self._clock.now()
                    if remaining <= 0:
                        late = Unavailable if until == limit else DeadlineExceeded
                        raise _loading(f"model {name} is still loading: try again", late)
                    if gone.is_set():
                        raise Cancelled("the caller went away")
                    self._clock.wait(self._changed, remaining)
            finally:
                self._waiting_requests -= 1
        return name in self._serving

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for first versions, at this moment."""
        return self._waiting_requests

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all configured labels, of all models, at once: the version of each."""
        self._labels = labels

    def labelled(self, name: str, label: str) -> int:
        """Return the version that a label stands for, loaded or not; never blocks.

        Raises:
            InvalidArgument: The model has no such label.
            NotFound: It may have it: its first version is on the way, and only when that is
                available those of its folder are known.
        """
        serves = name in self._serving
        version = self.labels(name).get(label)
        if version is None and not serves and not self._labels.get(name):
            with self._changed:
                if self._is_coming(name):
                    raise NotFound(f"Servable not found for request: Label({name}, {label})")
                version = self.labels(name).get(label)  # perhaps it has come since
        if version is None:
            raise InvalidArgument(f"Unrecognized servable version label: {label}")
        return version

    def labels(self, name: str) -> Mapping[str, int]:
        """Return a model's labels: those configured or, where none are, those of its folder."""
        configured = self._labels.get(name)
        if configured:
            return configured
        serving = self._serving.get(name)
        return serving.labels if serving else {}

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """State the labels that lie in a model's folder.

        They count where none are configured. One comes into force when its version is available,
        and stays where it was until then.
        """
        with self._changed:
            if self._folder_labels.get(name) != labels:
                self._folder_labels[name] = labels
                self._publish(name)

    def is_available(self, name: str, version: int | None = None) -> bool:
        """Whether a version can be had, or any of the model; never blocks."""
        serving = self._serving.get(name)
        return serving is not None and serving.find(version) is not None

    def available(self) -> list[Entry]:
        """Return the versions that requests can have, to look at; never blocks."""
        return [e for serving in self._serving.values() for e in serving.versions.values()]

    def names(self) -> list[str]:
        """Return the models of which anything is known."""
        with self._changed:
            return list(self._models)

    def status(self, name: str) -> list[VersionStatus]:
        """Return what is known of a model's versions, the highest first; empty if nothing is."""
        with self._changed:
            return self._status(name)

    def problem(self, name: str) -> str | None:
        """Return why versions of a model are missing, or did not load; None if all is well."""
        with self._changed:
            reasons = [str(e.error) for e in self._models.get(name, {}).values() if e.has_failed]
            problem, final = self._problems.get(name, ("", False))
            # One that may pass by itself is perhaps over, and its end not told yet.
            if problem and (final or not reasons):
                reasons.append(problem)
            return "; ".join(reasons) or None

    def is_settled(self, name: str) -> bool:
        """Whether a model has a version available, or nothing on the way that may become one."""
        with self._changed:
            return self._settled(name)

    def wait_until_settled(self, names: Iterable[str], timeout_s: float | None) -> bool:
        """Block until each model has a version available, or has failed; False if time passed.

        A version that failed counts, even if it will be tried again; a model of which nothing was
        seen yet does not.
        """
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        waiting = set(names)
        with self._changed:
            while waiting := {name for name in waiting if not self._settled(name)}:
                if self._stopping:
                    return False
                remaining = None if deadline is None else deadline - self._clock.now()
                if remaining is not None and remaining <= 0:
                    return False
                self._clock.wait(self._changed, remaining)
        return True

    def source_stopped(self) -> None:
        """Take note that nothing more will be aspired.

        Whoever waits for a model of which no version is known by now is told that there is none.
        """
        with self._changed:
            self._source_stopped = True
            self._changed.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Unload everything, waiting for the last handles; False if the time passed first.

        A load under way is left to itself: it can't be interrupted.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            for name, model in self._models.items():
                for entry in model.values():
                    entry.aspired = False
                self._advance(name)
            deadline = self._clock.now() + timeout_s
            while self._holds_anything() and (remaining := deadline - self._clock.now()) > 0:
                self._clock.wait(self._changed, remaining)
            unloaded = not self._holds_anything() and not self._loads
        self._tell()
        return unloaded

    def _holds_anything(self) -> bool:
        return any(
            entry.state in (State.AVAILABLE, State.UNLOADING)
            for model in self._models.values()
            for entry in model.values()
        )

    def _status(self, name: str) -> list[VersionStatus]:
        versions = self._models.get(name, {})
        return [
            VersionStatus(version, versions[version].state, versions[version].error)
            for version in sorted(versions, reverse=True)
        ]

    def _settled(self, name: str) -> bool:
        entries = self._models.get(name, {}).values()
        states = {entry.state for entry in entries}
        if State.AVAILABLE in states:
            return True
        if states & {State.START, State.LOADING}:
            return False
        _, final = self._problems.get(name, ("", False))
        return (
            final
            or self._source_stopped
            or name in self._withdrawn
            or any(entry.has_failed for entry in entries)
        )

    def _is_coming(self, name: str) -> bool:
        """Whether a version may become available soon, and none is."""
        if name in self._serving or self._stopping:
            return False
        entries = self._models.get(name, {}).values()
        if any(e.state in (State.START, State.LOADING) and not e.attempt for e in entries):
            return True
        return name in self._expected and not self._settled(name)

    def _advance(self, name: str) -> None:
        """Start all that the policy wants for a model; called, locked, after every change."""
        self._held_up.pop(name, None)
        self._untold[name] = None
        self._changed.notify_all()
        model = self._models.get(name)
        if model is None:
            return  # it was withdrawn, and is forgotten
        for entry in list(model.values()):
            if entry.state is State.START and not entry.aspired:
                entry.end(ServingError("Loading of servable cancelled", Code.CANCELLED))
            elif entry.should_start_over(entry.path) and entry.aspired:
                model[entry.id.version] = Entry(entry.id, entry.path, entry.attempt)
        self._forget_old_endings(model)
        while True:
            snapshots = [VersionSnapshot(e.id.version, e.state, e.aspired) for e in model.values()]
            match next_action(snapshots, self._options.policy):
                case Load(version=number):
                    if self._loads >= self._options.max_concurrent_loads:
                        self._held_up[name] = None
                        break
                    entry = model[number]
                    if self._start_thread(self._run_load, entry):
                        entry.move(State.LOADING)
                        self._loads += 1
                    else:
                        entry.end(Unavailable(f"{entry.id}: no thread can be had to load it"))
                        self._held_up[name] = None
                case Unload(version=number):
                    if not self._start_thread(self._run_unload, model[number]):
                        self._held_up[name] = None  # it serves on
                        break
                    # Published as unloading first, so that no observer trusts it a moment longer.
                    model[number].move(State.UNLOADING)
                    self._publish(name)
                case None:
                    break

    def _advance_held_up(self) -> None:
        """Go on with the models that had to wait, until one has to wait again."""
        if self._loads >= self._options.max_concurrent_loads:
            return
        held_up, self._held_up = self._held_up, {}
        for name in held_up:
            if self._held_up:
                self._held_up[name] = None
            else:
                self._advance(name)

    def _forget_old_endings(self, model: dict[int, Entry]) -> None:
        ended = sorted(
            number for number, e in model.items() if e.state is State.END and not e.aspired
        )
        for number in ended[:-_REMEMBERED_ENDINGS]:
            del model[number]

    def _forget_withdrawn(self) -> None:
        for name in list(self._withdrawn)[:-_REMEMBERED_MODELS]:
            if all(entry.state is State.END for entry in self._models.get(name, {}).values()):
                self._models.pop(name, None)
                self._held_up.pop(name, None)
                del self._withdrawn[name]

    def _publish(self, name: str) -> None:
        """Replace what requests see of a model: its versions, and the labels of its folder."""
        available = {
            number: entry
            for number, entry in self._models.get(name, {}).items()
            if entry.state is State.AVAILABLE
        }
        serving = dict(self._serving)
        before = serving.pop(name, None)
        if available:
            labels = settled_labels(
                self._folder_labels.get(name, {}),
                before.labels if before else {},
                available.__contains__,
            )
            serving[name] = Serving(available, available[max(available)], labels)
        self._serving = serving

    def _tell(self) -> None:
        """Tell the listeners what has changed; called without the lock."""
        with self._changed:
            names, self._untold = list(self._untold), {}
        for name in names:
            for listener in self._listeners:
                listener(name)

    def _start_thread(self, target: Callable[[Entry], None], entry: Entry) -> bool:
        """Have a thread call `target` once the lock is free; False if none can be had."""

        def run() -> None:
            with self._changed:
                pass  # whoever started it has noted by now what the version's state is
            try:
                target(entry)
                self._tell()
            finally:
                with self._changed:
                    self._threads.discard(thread)
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name=f"{target.__name__} {entry.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no room for more
            logger.warning("%s: model=%s version=%d must wait", error, *entry.id)
            return False
        self._threads.add(thread)
        return True

    def _run_load(self, entry: Entry) -> None:
        started = self._clock.now()
        logger.info("loading model=%s version=%d path=%s", *entry.id, entry.path)
        servable: Servable | None = None
        failure: ServingError | None = None
        try:
            servable = self._load(entry.id, entry.path)
        except ServingError as error:
            failure = error
        except Exception as error:
            logger.exception("loading failed model=%s version=%d", *entry.id)
            failure = ServingError(f"{entry.id}: {error}", Code.INTERNAL)
        elapsed_s = self._clock.now() - started
        if failure is None:
            logger.info("available model=%s version=%d load_s=%.2f", *entry.id, elapsed_s)
        else:
            logger.error("not loaded model=%s version=%d error=%s", *entry.id, failure)
        with self._changed:
            self._loads -= 1
            if servable is not None:
                entry.servable = servable
                # Handles can be had before anyone is told that they can.
                entry.move(State.AVAILABLE)
                self._publish(entry.id.name)
            else:
                entry.end(failure)
            self._advance(entry.id.name)
            self._advance_held_up()
        if failure is not None:
            self._tell()
            self._retry(entry)

    def _retry(self, failed: Entry) -> None:
        """Wait, and load the version once more if it is still wanted and still failed."""
        if failed.attempt >= self._options.max_load_retries:
            return
        wait_s = retry_wait_s(failed.attempt, self._options.longest_retry_wait_s)
        due = self._clock.now() + wait_s
        name, version = failed.id
        with self._changed:
            while True:
                model = self._models.get(name, {})
                if model.get(version) is not failed or not failed.aspired or self._stopping:
                    return
                remaining = due - self._clock.now()
                if remaining <= 0:
                    break
                self._clock.wait(self._changed, remaining)
            model[version] = Entry(failed.id, failed.path, failed.attempt + 1)
            self._advance(name)

    def _run_unload(self, entry: Entry) -> None:
        servable = entry.quiesce()
        try:
            servable.close()
        except Exception:
            logger.exception("closing failed model=%s version=%d", *entry.id)
        logger.info("unloaded model=%s version=%d", *entry.id)
        with self._changed:
            entry.end(None)
            self._advance(entry.id.name)
            self._forget_withdrawn()
            self._advance_held_up()


def _loading(message: str, kind: type[ServingError] = Unavailable) -> ServingError:
    error = kind(message)
    error.reason = "loading"
    return error
