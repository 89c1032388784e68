"""The registry: every version of every model, and what is known of the models themselves.

No locks, threads or clock live here: the manager holds its lock around each call.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ladle.server.core.errors import Code, ServingError, Unavailable
from ladle.server.core.lifecycle.serving_map import Entry
from ladle.server.core.lifecycle.states import (
    Load,
    State,
    TransitionPolicy,
    Unload,
    VersionSnapshot,
    next_action,
)
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

# How many versions that have ended a model's status remembers, and how many models that were
# withdrawn; upstream keeps all for ever, and its answers grow without end (its issue 1488).
_REMEMBERED_ENDINGS = 16
_REMEMBERED_MODELS = 64


class VersionStatus(NamedTuple):
    """What GetModelStatus answers of a version."""

    version: int
    state: State
    error: ServingError | None


class Registry:
    """What is wanted of each model, and where its versions stand."""

    def __init__(self, policy: TransitionPolicy) -> None:
        self.stopping = False
        """Whether everything is to be unloaded, for good."""
        self._policy = policy
        self._models: dict[str, dict[int, Entry]] = {}
        self._expected: set[str] = set()  # configured models that no source has seen yet
        self._problems: dict[str, tuple[str, bool]] = {}
        self._incomplete: dict[str, dict[int, str]] = {}
        self._withdrawn: dict[str, None] = {}
        self._source_stopped = False

    def expect(self, name: str) -> None:
        """Take note that a model is configured."""
        self._withdrawn.pop(name, None)
        if not any(entry.aspired for entry in self.versions(name).values()):
            self._expected.add(name)

    def withdraw(self, name: str) -> None:
        """Take note that a model is configured no longer: nothing of it is wanted."""
        self._expected.discard(name)
        self._problems.pop(name, None)
        self._incomplete.pop(name, None)
        self._withdrawn[name] = None
        for entry in self.versions(name).values():
            entry.aspired = False

    def aspire(self, name: str, versions: Mapping[int, Path]) -> bool:
        """Take all the versions of a model that should be served; False if they are as before."""
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
        return changed

    def start_over(self, failed: Entry, attempt: int = 0) -> bool:
        """Have a version that has failed loaded afresh; False if it is not wanted any more."""
        if not self.is_current(failed) or not failed.has_failed or self.stopping:
            return False
        entry = Entry(failed.id, failed.path, attempt)
        self._models[failed.id.name][failed.id.version] = entry
        return True

    def report(
        self,
        name: str,
        problem: str | None,
        *,
        final: bool,
        incomplete: Mapping[int, str] = MappingProxyType({}),
    ) -> bool:
        """Remember why versions of a model are missing; False if that is known.

        `incomplete` says why of each version that is there, and can't be loaded yet.
        """
        changed = self._incomplete.get(name, {}) != incomplete
        self._incomplete[name] = dict(incomplete)
        if not incomplete:
            del self._incomplete[name]
        if problem is None:
            return self._problems.pop(name, None) is not None or changed
        if self._problems.get(name) == (problem, final):
            return changed
        self._problems[name] = (problem, final)
        logger.log(logging.WARNING if final else logging.INFO, "%s model=%s", problem, name)
        return True

    def source_stopped(self) -> None:
        """Take note that nothing more will be aspired."""
        self._source_stopped = True

    def stop(self) -> None:
        """Take note that nothing is wanted any more, of any model."""
        self.stopping = True
        for model in self._models.values():
            for entry in model.values():
                entry.aspired = False

    def is_known(self, name: str) -> bool:
        """Whether a model is configured, or a version of it has not ended."""
        if name in self._expected or name in self._problems:
            return True
        return any(e.aspired or e.state is not State.END for e in self.versions(name).values())

    def names(self) -> list[str]:
        """Return the names of all models that are known."""
        return list(self._models)

    def versions(self, name: str) -> Mapping[int, Entry]:
        """Return what is known of a model's versions."""
        return self._models.get(name, {})

    def is_current(self, entry: Entry) -> bool:
        """Whether no other entry stands for the version by now."""
        return self.versions(entry.id.name).get(entry.id.version) is entry

    def failed(self, name: str) -> list[int]:
        """Return the aspired versions of a model that could not be loaded."""
        return [version for version, entry in self.versions(name).items() if entry.has_failed]

    def status(self, name: str) -> list[VersionStatus]:
        """Return where a model's versions stand, the highest first.

        One that is there and not whole has not started: its error says what it lacks.
        """
        entries = self.versions(name)
        found = [VersionStatus(version, e.state, e.error) for version, e in entries.items()]
        found += [
            VersionStatus(version, State.START, Unavailable(reason))
            for version, reason in self._incomplete.get(name, {}).items()
            if version not in entries
        ]
        return sorted(found, key=lambda status: status.version, reverse=True)

    def problem(self, name: str) -> str | None:
        """Return why versions of a model are missing, or did not load; None if all is well."""
        reasons = [str(entry.error) for entry in self.versions(name).values() if entry.has_failed]
        problem, final = self._problems.get(name, ("", False))
        # One that may pass by itself is perhaps over, and nobody has reported that yet.
        if problem and (final or not reasons):
            reasons.append(problem)
        return "; ".join(reasons) or None

    def is_settled(self, name: str) -> bool:
        """Whether a model has a version available, or nothing on the way that may become one."""
        entries = self.versions(name).values()
        states = {entry.state for entry in entries}
        if State.AVAILABLE in states:
            return True
        if states & {State.START, State.LOADING} or any(map(_comes_back, entries)):
            return False
        _, final = self._problems.get(name, ("", False))
        return (
            final
            or self._source_stopped
            or name in self._withdrawn
            or any(entry.has_failed for entry in entries)
        )

    def is_coming(self, name: str, version: int | None = None) -> bool:
        """Whether a version may become available soon, and none is; or whether that one may."""
        entries = self.versions(name).values()
        if version is not None:
            entry = self.versions(name).get(version)
            if entry is None or self.stopping:
                return False
            return _begins(entry) or _comes_back(entry)
        if self.stopping or any(entry.state is State.AVAILABLE for entry in entries):
            return False
        if any(_begins(entry) or _comes_back(entry) for entry in entries):
            return True
        return name in self._expected and not self.is_settled(name)

    def is_loading(self, name: str) -> bool:
        """Whether a version loads, or is about to."""
        states = {entry.state for entry in self.versions(name).values()}
        return bool(states & {State.START, State.LOADING})

    def holds_anything(self) -> bool:
        """Whether any version is still loaded."""
        return any(
            entry.state in (State.AVAILABLE, State.UNLOADING)
            for model in self._models.values()
            for entry in model.values()
        )

    def next_action(self, name: str) -> Load | Unload | None:
        """Return the one thing to do next for a model."""
        return next_action(
            [
                VersionSnapshot(version, entry.state, entry.aspired)
                for version, entry in self.versions(name).items()
            ],
            self._policy,
        )

    def tidy(self, name: str) -> None:
        """End what is not wanted before it has begun, begin again what is, and forget old endings.

        Comes before `next_action`.
        """
        model = self._models.get(name, {})
        for version, entry in list(model.items()):
            if entry.state is State.START and not entry.aspired:
                entry.end(ServingError("Loading of servable cancelled", Code.CANCELLED))
            elif entry.should_start_over(entry.path) and entry.aspired:
                # What was loaded before comes without the failures before that.
                attempt = entry.attempt if entry.has_failed else 0
                model[version] = Entry(entry.id, entry.path, attempt)
        ended = sorted(v for v, e in model.items() if e.state is State.END and not e.aspired)
        for version in ended[:-_REMEMBERED_ENDINGS]:
            del model[version]

    def forget_withdrawn(self) -> None:
        """Forget all but the last models that were withdrawn, as far as they are unloaded."""
        for name in list(self._withdrawn)[:-_REMEMBERED_MODELS]:
            if all(entry.state is State.END for entry in self.versions(name).values()):
                self._models.pop(name, None)
                del self._withdrawn[name]


def _begins(entry: Entry) -> bool:
    """Whether a version loads for the first time, or is about to."""
    return entry.state in (State.START, State.LOADING) and not entry.attempt


def _comes_back(entry: Entry) -> bool:
    """Whether a version is wanted again before it is unloaded: then it loads afresh."""
    return entry.aspired and entry.state is State.UNLOADING
