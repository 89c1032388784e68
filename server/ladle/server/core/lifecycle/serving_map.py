"""What requests see: the versions that can be had, and the handles that keep them loaded."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ladle.server.core.errors import NotFound, ServingError
from ladle.server.core.lifecycle.states import State, transition
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.version_policy import effective_labels


@dataclass(frozen=True)
class Serving:
    """The versions of one model that requests can have, and the labels on them."""

    versions: Mapping[int, Entry]
    latest: Entry
    labels: Mapping[str, int]
    """Those of the model's folder that are in force."""

    def find(self, version: int | None) -> Entry | None:
        """Return a version, or the highest one."""
        return self.latest if version is None else self.versions.get(version)


class ServingMap:
    """An immutable map of all models, replaced as a whole by a single assignment.

    Any thread reads it, and never waits; it is changed under the manager's lock.
    """

    def __init__(self) -> None:
        self.revision = object()
        """Another one after each change: for who keeps what follows from the map."""
        self._serving: Mapping[str, Serving] = {}
        self._configured_labels: Mapping[str, Mapping[str, int]] = {}
        # Of each model, as the files beside its versions say.
        self._folder_labels: dict[str, Mapping[str, int]] = {}
        self._labelled_s: Mapping[str, float] = {}  # when these were changed; replaced as a whole
        self._uses = itertools.count(1)

    def __contains__(self, name: str) -> bool:
        """Whether a version of the model can be had."""
        return name in self._serving

    def acquire(self, name: str, version: int | None = None, *, is_use: bool = True) -> Handle:
        """Return a handle on a version, or on the highest one available; never blocks.

        `is_use`: whether the model counts as used.

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
                if is_use:
                    found.last_use = next(self._uses)
                return Handle(found)
            # It was quiesced since the look-up; the map has been replaced before that.

    def is_available(self, name: str, version: int | None = None) -> bool:
        """Whether a version can be had, or any of the model."""
        serving = self._serving.get(name)
        return serving is not None and serving.find(version) is not None

    def available(self) -> list[Entry]:
        """Return the versions that can be had."""
        return [e for serving in self._serving.values() for e in serving.versions.values()]

    def versions(self, name: str) -> Collection[int]:
        """Return the versions of a model that can be had."""
        serving = self._serving.get(name)
        return serving.versions.keys() if serving else ()

    def has_configured_labels(self, name: str) -> bool:
        """Whether a model's labels are those of the configuration."""
        return bool(self._configured_labels.get(name))

    def labels(self, name: str) -> Mapping[str, int]:
        """Return a model's labels: those configured or, where none are, those of its folder."""
        configured = self._configured_labels.get(name)
        if configured:
            return configured
        serving = self._serving.get(name)
        return serving.labels if serving else {}

    def folder_label(self, name: str, label: str) -> int | None:
        """Return the version that a label beside it is to be on, in force or not."""
        return self._folder_labels.get(name, {}).get(label)

    def set_labels(self, labels: Mapping[str, Mapping[str, int]]) -> None:
        """Replace all configured labels, of all models, at once."""
        self._configured_labels = labels
        self.revision = object()

    def labelled_s(self, name: str) -> float | None:
        """Return when the labels in force were changed, in seconds since 1970, if that is known."""
        return None if self.has_configured_labels(name) else self._labelled_s.get(name)

    def set_folder_labels(
        self, name: str, labels: Mapping[str, int], changed_s: float | None = None
    ) -> bool:
        """Take the labels of a model's folder, which `publish` puts in force; False: as before.

        `changed_s` is when they were changed, in seconds since 1970; None where nobody knows.
        """
        if self._labelled_s.get(name) != changed_s:
            others = {model: at for model, at in self._labelled_s.items() if model != name}
            self._labelled_s = others if changed_s is None else {**others, name: changed_s}
        if self._folder_labels.get(name, {}) == labels:
            return False
        self._folder_labels[name] = labels
        if not labels:
            del self._folder_labels[name]
        return True

    def publish(self, name: str, versions: Mapping[int, Entry]) -> None:
        """Replace what requests see of a model: those of its versions that can be had.

        A label of its folder is put on its version once that is available, and stays where it was
        until then.
        """
        available = {number: entry for number, entry in versions.items() if entry.can_be_had}
        serving = dict(self._serving)
        before = serving.pop(name, None)
        if available:
            labels = effective_labels(
                self._folder_labels.get(name, {}),
                before.labels if before else {},
                available.__contains__,
            )
            serving[name] = Serving(available, available[max(available)], labels)
        self._serving = serving
        self.revision = object()


class Handle:
    """A claim on a loaded version: it stays loaded until the handle is released.

    Use it in a `with` block around one request, and no longer.
    """

    __slots__ = ("id", "release", "retain", "servable")

    def __init__(self, entry: Entry) -> None:
        assert entry.servable is not None  # only available versions have handles
        self.id = entry.id
        self.servable = entry.servable
        self.release = entry.release
        """Gives the claim back; to be called exactly once."""
        self.retain = entry.retain
        """Claims the version so many times more, and returns whether it can be had still."""

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class Entry:
    """One version: its state, and who still holds it.

    State changes happen under the manager's lock; the count of handles has a lock of its own, so
    that requests to different versions never meet.
    """

    def __init__(self, servable_id: ServableId, path: Path, attempt: int = 0) -> None:
        """`attempt` counts the loads of the same files that failed before this one."""
        self.id = servable_id
        self.path = path
        self.attempt = attempt
        self.state = State.START
        self.aspired = True
        self.error: ServingError | None = None
        self.servable: Servable | None = None
        self.serves_on = False
        """Whether requests can have it though it unloads: other processes don't know it yet."""
        self.last_use = 0
        """Grows with each handle that was given out to use it, of all versions."""
        self._began = False
        self._lock = threading.Lock()  # guards the two below
        self._handles = 0
        self._quiesced = False
        self._idle = threading.Condition(self._lock)
        """Notified when the last handle is released."""

    @property
    def handles(self) -> int:
        """How many handles are out, at this moment."""
        return self._handles

    @property
    def can_be_had(self) -> bool:
        """Whether requests can have it."""
        return self.state is State.AVAILABLE or self.serves_on

    @property
    def has_failed(self) -> bool:
        """Whether it is wanted, and could not be loaded."""
        return self.state is State.END and self.aspired and self.error is not None

    def should_start_over(self, path: Path) -> bool:
        """Whether it has ended, and being aspired from `path` is reason to load it afresh.

        It is none where the load of these very files has failed.
        """
        failed_here = self.has_failed and self._began and path == self.path
        return self.state is State.END and not failed_here

    def move(self, to: State) -> None:
        """Take the next state; anything but a way that the table has is a bug."""
        self.state = transition(self.state, to)
        self._began = self._began or to is State.LOADING

    def end(self, error: ServingError | None) -> None:
        """Take the last state, and free the servable, or what a failed load has left in `error`."""
        self.move(State.END)
        self.error = error
        if error is not None:
            error.clear_traceback()
        self.servable = None

    def retain(self, count: int = 1) -> bool:
        """Count so many more handles; False if none are given out any more."""
        with self._lock:
            if self._quiesced:
                return False
            self._handles += count
            return True

    def release(self, count: int = 1) -> None:
        """Count so many handles less."""
        with self._lock:
            self._handles -= count
            if self._quiesced and not self._handles:
                self._idle.notify_all()

    def quiesce(self) -> Servable:
        """Give no more handles, wait for the last one, and return the servable to close."""
        with self._lock:
            self._quiesced = True
            while self._handles:
                self._idle.wait()
        assert self.servable is not None
        return self.servable
