"""Puts a new set of models in place of the old one, and says which of them did not come up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import FailedPrecondition, NotFound, ServingError, Unavailable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.config import ModelConfig, check_labels
from ladle.server.core.models.residents import Residents
from ladle.server.core.sources.source import Source

logger = logging.getLogger(__name__)

# How long a reload waits for its models, for a caller who would wait for ever.
_LONGEST_WAIT_S = 600.0
# Each wait holds a thread of the transport: past so many, the next is refused.
_MAX_WAITING = 4
# How many names of models a line of the log has.
_LOGGED = 10
# What is kept of a caller's time to bring the answer to it.
_LARGEST_MARGIN_S = 1.0


class Configured:
    """The models that are configured now. A ModelSet replaces them; any thread may read them."""

    def __init__(self) -> None:
        self._models: Mapping[str, ModelConfig] = {}
        self._listeners: list[Callable[[], None]] = []

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after each change, in the thread that makes it.

        Add all listeners before the first change. A listener must not block.
        """
        self._listeners.append(listener)

    def models(self) -> Mapping[str, ModelConfig]:
        """Return the models by name."""
        return self._models

    def names(self) -> Collection[str]:
        """Return the names of the models."""
        return self._models

    def replace(self, models: Mapping[str, ModelConfig]) -> None:
        """Put others in place of all that there were, by a single assignment."""
        self._models = models
        for listener in self._listeners:
            listener()


class Catalogue(Protocol):
    """Models that could be served. Thread-safe."""

    def names(self) -> Collection[str]:
        """Return the names of all of them."""

    def find(self, name: str) -> ModelConfig | None:
        """Return the model of that name; None if there is none.

        Raises:
            ServingError: It can't be served.
        """


class ModelSet:
    """Changes which models are configured. Thread-safe.

    A change is checked and put in place under a lock, quickly; waiting for models comes after it,
    so that a change that waits holds up no other.
    """

    def __init__(
        self,
        manager: Manager,
        source: Source,
        *,
        configured: Configured | None = None,
        allow_unavailable_labels: bool = False,
        catalogue: Catalogue | None = None,
        residents: Residents | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take what a change reaches.

        Args:
            manager: has the versions.
            source: scans the base paths.
            configured: what is configured.
            allow_unavailable_labels: whether a label may be put on what is not available.
            catalogue: has models that are not configured, for `bring_back`.
            residents: loads models on demand; None loads all that are configured.
            clock: the time.
        """
        self._residents = residents
        self._manager = manager
        self._source = source
        self._allow_unavailable_labels = allow_unavailable_labels
        self._catalogue = catalogue
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()  # held around each change of what is configured
        self._waits = threading.BoundedSemaphore(_MAX_WAITING)
        self._configured = configured or Configured()
        # These three are guarded by _lock.
        self._stated: Mapping[str, ModelConfig] = {}
        self._found: Mapping[str, ModelConfig] = {}
        self._set_aside: dict[str, ModelConfig] = {}

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """What is configured now, by name."""
        return self._configured.models()

    @property
    def models_set_aside(self) -> Mapping[str, ModelConfig]:
        """What was set aside, by name."""
        with self._lock:
            return dict(self._set_aside)

    def apply_first(
        self,
        models: Iterable[ModelConfig],
        found: Iterable[ModelConfig] = (),
        *,
        set_aside: Iterable[ModelConfig] = (),
    ) -> None:
        """Put the first models in place: their labels may name versions that are yet to load.

        Args:
            models: those that are stated.
            found: those that lie under the model root.
            set_aside: those that `bring_back` can bring.
        """
        with self._lock:
            self._set_aside = {model.name: model for model in set_aside}
            self._found = {model.name: model for model in found}
            self._apply({model.name: model for model in models})

    def found(self, models: Iterable[ModelConfig]) -> None:
        """Take what lies under the model root, all of it: it is served beside what is stated.

        Where a model of that name is stated, that counts.
        """
        with self._lock:
            self._found = {model.name: model for model in models}
            self._apply(self._stated)

    def check(self, models: Iterable[ModelConfig], *, keeps_others: bool) -> None:
        """Find out whether `replace` would put models in place; changes nothing.

        Args:
            models: the models.
            keeps_others: whether models of other names stay beside them, as for `add`.

        Raises:
            FailedPrecondition: A label may not be put where it is wanted.
        """
        with self._lock:
            given = {model.name: model for model in models}
            self._check({**self.models, **given} if keeps_others else given)

    def replace(self, models: Iterable[ModelConfig], *, labels_later: bool = False) -> set[str]:
        """Put `models` in place of all that were; return the names that are new, at once.

        Nothing is changed if it raises. With `labels_later`, labels may name versions that are yet
        to load.

        Raises:
            FailedPrecondition: A label may not be put where it is wanted.
        """
        with self._lock:
            new = self._replace({model.name: model for model in models}, labels_later=labels_later)
            self._set_aside.clear()
            return new

    def add(self, model: ModelConfig, *, labels_later: bool = False) -> None:
        """Put one model in place, beside the others or instead of the one of its name.

        With `labels_later`, its labels may name versions that are yet to load.

        Raises:
            FailedPrecondition: A label may not be put where it is wanted.
        """
        with self._lock:
            self._replace({**self._stated, model.name: model}, labels_later=labels_later)
            self._set_aside.pop(model.name, None)

    def remove(self, name: str) -> None:
        """Take one model out, and leave the others.

        Raises:
            NotFound: It is not configured.
            FailedPrecondition: It lies under the model root, and is not stated.
        """
        with self._lock:
            self._require_stated(name)
            self._replace({n: model for n, model in self._stated.items() if n != name})

    def set_aside(self, name: str) -> None:
        """Take one model out as `remove` does, and keep its configuration for `bring_back`.

        `replace` forgets what was kept.

        Raises:
            NotFound: It is not configured.
            FailedPrecondition: It lies under the model root, and is not stated.
        """
        with self._lock:
            model = self._require_stated(name)
            self._replace({n: other for n, other in self._stated.items() if n != name})
            self._set_aside[name] = model

    def bring_back(self, name: str) -> bool:
        """Put a model in place that was set aside or is in the catalogue; whether there is one.

        A model that is in place already is left. May block, as the catalogue does.

        Raises:
            ServingError: The catalogue has it, and it can't be served.
        """
        if name in self.models:
            return False
        found = self._catalogue.find(name) if self._catalogue is not None else None
        with self._lock:
            model = found or self._set_aside.get(name)
            if model is None or name in self.models:
                return False
            self._set_aside.pop(name, None)
            # As at the server's start, its labels may name versions that are yet to load.
            self._apply({**self._stated, name: model})
            return True

    def load(self, name: str) -> None:
        """Have a model loaded that is loaded on demand otherwise; does not wait for the load.

        Raises:
            ResourceExhausted: There is no room for it.
            ServingError: It could not be loaded a moment ago; the message says why.
        """
        if self._residents is not None:
            self._residents.want(name, "call")

    def wanted(self) -> Collection[str]:
        """Return the names of the models that should be loaded whether anyone asks or not."""
        return self.models.keys() if self._residents is None else self._residents.wanted

    def absent(self) -> Collection[str]:
        """Return the names of the models that `bring_back` would bring; may block."""
        with self._lock:
            names = {*self._set_aside}
        if self._catalogue is not None:
            names.update(self._catalogue.names())
        return names - self.models.keys()

    def rescan(self, name: str) -> None:
        """Scan one model's base path now, and try its failed versions again.

        Raises:
            NotFound: It is not configured.
            Unavailable: The base path does not answer.
        """
        rescan = self._source.rescan if self._residents is None else self._residents.rescan
        if not rescan(name):
            raise NotFound(f"model {name} is not configured")

    def wait_for(self, names: Iterable[str], deadline: float | None) -> None:
        """Block until each model has a version available or has failed, but not past `deadline`.

        Models that are loaded on demand, and that nobody has asked for, are not waited for.

        Raises:
            ServingError: UNKNOWN, as upstream has it: which did not become available, and why.
            Unavailable: Too many callers wait already; what they changed is in place.
        """
        names = sorted(name for name in names if not self._manager.is_unloaded(name))
        if self._manager.wait_until_settled(names, 0.0):
            self._require(names)
            return
        if not self._waits.acquire(blocking=False):
            raise Unavailable(
                f"{_MAX_WAITING} callers wait for models to load already: "
                "the change is made, GetModelStatus tells how it goes"
            )
        try:
            self._wait_for(names, deadline)
        finally:
            self._waits.release()

    def _wait_for(self, names: list[str], deadline: float | None) -> None:
        remaining_s = _LONGEST_WAIT_S if deadline is None else deadline - self._clock.now()
        timeout_s = remaining_s - min(_LARGEST_MARGIN_S, remaining_s / 5)
        self._manager.wait_until_settled(names, min(timeout_s, _LONGEST_WAIT_S))
        self._require(names)

    def _require(self, names: list[str]) -> None:
        absent = [name for name in names if not self._manager.is_available(name)]
        if absent:
            reasons = "; ".join(f"{name}: {self._why(name)}" for name in absent)
            raise ServingError(f"{len(absent)} model(s) did not become available: {{{reasons}}}")

    def _why(self, name: str) -> str:
        if name not in self.models:
            return "it was taken out again"
        if self._residents is not None:
            try:
                self._residents.explain(name)
            except ServingError as error:
                return error.message
        return self._manager.problem(name) or "it is still loading"

    def _require_stated(self, name: str) -> ModelConfig:
        model = self._stated.get(name)
        if model is not None:
            return model
        if name in self._found:
            raise FailedPrecondition(
                f"model {name} lies under --model_root: it goes when its folder does"
            )
        raise NotFound(f"model {name} is not configured")

    def _check(self, models: Mapping[str, ModelConfig]) -> None:
        check_labels(
            models.values(),
            {name: model.labels for name, model in self.models.items()},
            self._manager.is_available,
            allow_unavailable=self._allow_unavailable_labels,
        )

    def _replace(
        self, models: Mapping[str, ModelConfig], *, labels_later: bool = False
    ) -> set[str]:
        if not labels_later:
            self._check(models)
        new = models.keys() - self.models.keys()
        self._apply(models)
        return new

    def _apply(self, stated: Mapping[str, ModelConfig]) -> None:
        self._stated = dict(stated)
        together = {**self._found, **stated}
        models = list(together.values())
        labels = {model.name: model.labels for model in models if model.labels}
        if self._residents is not None:
            self._manager.set_labels(labels)
            self._residents.set_models(together)
            # Last: who hears from the health service that a model has gone gets it no more.
            self._configured.replace(together)
        else:
            self._configured.replace(together)
            self._manager.set_labels(labels)
            for model in models:
                self._manager.expect(model.name)
            self._source.set_models(model.monitored for model in models)
        names = sorted(self.models)
        more = f" and {len(names) - _LOGGED}" if len(names) > _LOGGED else ""
        logger.info("configured models=%s%s", names[:_LOGGED], more)
