"""The manager: takes aspired versions to being served and out again, and hands out handles."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import Code, NotFound, ServingError
from ladle.server.core.lifecycle import (
    Load,
    State,
    TransitionPolicy,
    Unload,
    VersionSnapshot,
    next_action,
    transition,
)
from ladle.server.core.servable import Servable, ServableId

logger = logging.getLogger(__name__)

# How many versions that have ended a model's status remembers; upstream keeps them for ever,
# and its answers grow without end (tensorflow/serving issue 1488).
_REMEMBERED_ENDINGS = 16

Loader = Callable[[ServableId, Path], Servable]
"""Loads a version from its folder, warm-up included; blocks, and raises ServingError."""


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
        *,
        policy: TransitionPolicy = "availability_preserving",
        clock: Clock | None = None,
    ) -> None:
        self._load = load
        self._policy: TransitionPolicy = policy
        self._clock = clock or MonotonicClock()
        self._changed = threading.Condition()
        self._models: dict[str, dict[int, _Version]] = {}
        self._serving: Mapping[str, _Serving] = {}
        self._threads: set[threading.Thread] = set()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """State all the versions of a model that should be served, each with its folder.

        What is left out is unloaded; returns at once. Saying the same again changes nothing: a
        version that failed to load stays so until it has been left out, or its folder is another.
        """
        with self._changed:
            model = self._models.setdefault(name, {})
            for version, path in versions.items():
                known = model.get(version)
                if known is None or known.should_start_over(path):
                    model[version] = _Version(ServableId(name, version), path)
                else:
                    known.aspired = True
            for version in model.keys() - versions.keys():
                model[version].aspired = False
            self._advance(name)

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

    def status(self, name: str) -> list[VersionStatus]:
        """Return what is known of a model's versions, the highest first; empty if nothing is."""
        with self._changed:
            return self._status(name)

    def wait_until_settled(self, names: Iterable[str], timeout_s: float | None) -> bool:
        """Block until each model has a version available or ended; False if the time passed.

        A model of which nothing was aspired yet counts as not settled.
        """
        deadline = None if timeout_s is None else self._clock.now() + timeout_s
        waiting = set(names)
        with self._changed:
            while waiting := {name for name in waiting if not self._settled(name)}:
                remaining = None if deadline is None else deadline - self._clock.now()
                if remaining is not None and remaining <= 0:
                    return False
                self._clock.wait(self._changed, remaining)
        return True

    def stop(self, timeout_s: float) -> bool:
        """Unload everything, waiting for the last handles; False if the time passed first."""
        with self._changed:
            for name, model in self._models.items():
                for version in model.values():
                    version.aspired = False
                self._advance(name)
        deadline = self._clock.now() + timeout_s
        with self._changed:
            while self._threads:
                remaining = deadline - self._clock.now()
                if remaining <= 0:
                    return False
                self._clock.wait(self._changed, remaining)
        return True

    def _status(self, name: str) -> list[VersionStatus]:
        versions = self._models.get(name, {})
        return [
            VersionStatus(version, versions[version].state, versions[version].error)
            for version in sorted(versions, reverse=True)
        ]

    def _settled(self, name: str) -> bool:
        states = {status.state for status in self._status(name)}
        return State.AVAILABLE in states or (bool(states) and states == {State.END})

    def _advance(self, name: str) -> None:
        """Start all that the policy wants for a model; called, locked, after every change."""
        model = self._models[name]
        for version in list(model.values()):
            if version.state is State.START and not version.aspired:
                version.end(ServingError("Loading of servable cancelled", Code.CANCELLED))
            elif version.should_start_over(version.path) and version.aspired:
                model[version.id.version] = _Version(version.id, version.path)
        self._forget_old_endings(model)
        while True:
            snapshots = [VersionSnapshot(v.id.version, v.state, v.aspired) for v in model.values()]
            match next_action(snapshots, self._policy):
                case Load(version=number):
                    model[number].move(State.LOADING)
                    self._start_thread(self._run_load, model[number])
                case Unload(version=number):
                    # Published as unloading first, so that no observer trusts it a moment longer.
                    model[number].move(State.UNLOADING)
                    self._publish(name)
                    self._start_thread(self._run_unload, model[number])
                case None:
                    break
        self._changed.notify_all()

    def _forget_old_endings(self, model: dict[int, _Version]) -> None:
        ended = sorted(
            number for number, v in model.items() if v.state is State.END and not v.aspired
        )
        for number in ended[:-_REMEMBERED_ENDINGS]:
            del model[number]

    def _publish(self, name: str) -> None:
        """Replace what requests see of a model."""
        available = {
            number: version
            for number, version in self._models[name].items()
            if version.state is State.AVAILABLE
        }
        serving = dict(self._serving)
        if available:
            serving[name] = _Serving(available, available[max(available)])
        else:
            serving.pop(name, None)
        self._serving = serving

    def _start_thread(self, target: Callable[[_Version], None], version: _Version) -> None:
        def run() -> None:
            try:
                target(version)
            finally:
                with self._changed:
                    self._threads.discard(threading.current_thread())
                    self._changed.notify_all()

        thread = threading.Thread(target=run, name=f"{target.__name__} {version.id}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _run_load(self, version: _Version) -> None:
        started = self._clock.now()
        logger.info("loading model=%s version=%d path=%s", *version.id, version.path)
        try:
            servable = self._load(version.id, version.path)
        except ServingError as error:
            failure = error
        except Exception as error:
            logger.exception("loading failed model=%s version=%d", *version.id)
            failure = ServingError(f"{version.id}: {error}", Code.INTERNAL)
        else:
            with self._changed:
                version.servable = servable
                # Handles can be had before anyone is told that they can.
                version.move(State.AVAILABLE)
                self._publish(version.id.name)
                self._advance(version.id.name)
            elapsed_s = self._clock.now() - started
            logger.info("available model=%s version=%d load_s=%.2f", *version.id, elapsed_s)
            return
        logger.error("not loaded model=%s version=%d error=%s", *version.id, failure)
        with self._changed:
            version.end(failure)
            self._advance(version.id.name)

    def _run_unload(self, version: _Version) -> None:
        servable = version.quiesce()
        try:
            servable.close()
        except Exception:
            logger.exception("closing failed model=%s version=%d", *version.id)
        logger.info("unloaded model=%s version=%d", *version.id)
        with self._changed:
            version.end(None)
            self._advance(version.id.name)


class Handle:
    """A claim on a loaded version: it stays loaded until the handle is released.

    Use it in a `with` block around one request, and no longer.
    """

    __slots__ = ("_version", "id", "servable")

    def __init__(self, version: _Version) -> None:
        assert version.servable is not None  # only available versions are handed out
        self._version = version
        self.id = version.id
        self.servable = version.servable

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the claim back; exactly once."""
        self._version.release()


class _Version:
    """One version in the manager's book: its state, and who still holds it.

    State changes happen under the manager's lock; the count of handles has a lock of its own, so
    that requests to different versions never meet.
    """

    def __init__(self, servable_id: ServableId, path: Path) -> None:
        self.id = servable_id
        self.path = path
        self.state = State.START
        self.aspired = True
        self.error: ServingError | None = None
        self.servable: Servable | None = None
        self._idle = threading.Condition(threading.Lock())
        self._handles = 0
        self._quiesced = False

    def should_start_over(self, path: Path) -> bool:
        """Whether it has ended, and being aspired from `path` is reason to load it afresh."""
        failed_here = self.error is not None and self.aspired and path == self.path
        return self.state is State.END and not failed_here

    def move(self, to: State) -> None:
        self.state = transition(self.state, to)

    def end(self, error: ServingError | None) -> None:
        self.move(State.END)
        self.error = error
        self.servable = None

    def retain(self) -> bool:
        with self._idle:
            if self._quiesced:
                return False
            self._handles += 1
            return True

    def release(self) -> None:
        with self._idle:
            self._handles -= 1
            if self._quiesced and not self._handles:
                self._idle.notify_all()

    def quiesce(self) -> Servable:
        """Hand out no more handles, wait for the last one, and return what is to be closed."""
        with self._idle:
            self._quiesced = True
            while self._handles:
                self._idle.wait()
        assert self.servable is not None
        return self.servable


@dataclass(frozen=True)
class _Serving:
    """The versions of one model that requests can have."""

    versions: Mapping[int, _Version]
    latest: _Version

    def find(self, version: int | None) -> _Version | None:
        return self.latest if version is None else self.versions.get(version)
