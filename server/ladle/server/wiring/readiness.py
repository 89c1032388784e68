"""What the health service says: which names serve, and when the server as a whole does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from ladle.server.core.lifecycle.manager import Manager

_PREDICTION = (
    "PredictionService",
    "tensorflow.serving.PredictionService",
)
_OPEN_INFERENCE = "inference.GRPCInferenceService"
_ADMIN = (
    "ModelService",
    "tensorflow.serving.ModelService",
    "ladle.v1.ModelRepository",
)

Say = Callable[[str, "bool | None"], None]
"""Takes a name, and whether it serves; None if there is no such thing any more."""


class Readiness:
    """Follows the manager's changes. Thread-safe.

    A model serves while a version of it answers. The whole, and the services that run models,
    serve from the moment that every wanted model has come up or failed, and one has come up,
    for as long as one is there: a bad model does not take the server from the others' callers.
    A model that is loaded on demand serves too, since it answers who asks; it is not waited for.
    ModelService serves as long as the server runs.
    """

    def __init__(
        self,
        manager: Manager,
        configured: Callable[[], Collection[str]],
        say: Say,
        *,
        wanted: Callable[[], Collection[str]] | None = None,
        open_inference: bool = True,
        strict: bool | None = None,
    ) -> None:
        """Say that nothing serves yet.

        Args:
            manager: what changes.
            configured: returns the names of the models that there should be; the same object,
                as long as they are the same.
            say: called with how things stand.
            wanted: returns the names of the models that should be loaded whether anyone asks for
                them or not; None: all that are configured.
            open_inference: whether the Open Inference Protocol is served.
            strict: True: the whole serves while every configured model does; False: always; None:
                as the class says.
        """
        self._manager = manager
        self._configured = configured
        self._say = say
        self._lock = threading.Lock()
        self._wanted = wanted or configured
        self._loads_on_demand = wanted is not None
        self._stated: set[str] = set()
        self._seen: Collection[str] = ()
        self._begun = False
        self._strict = strict
        self._running = (*_PREDICTION, *([_OPEN_INFERENCE] if open_inference else []))
        for name in _ADMIN:
            say(name, True)
        for name in ("", *self._running):
            say(name, False)

    def model_changed(self, name: str) -> None:
        """Say how things stand, after something about a model may have changed."""
        # Read under the lock: of two changes at once, the later word has to be the newer one.
        with self._lock:
            configured = self._configured()
            if configured is not self._seen:  # there may be thousands
                self._seen = configured
                for gone in self._stated - set(configured):
                    self._stated.discard(gone)
                    self._say_of_model(gone, None)
                if self._loads_on_demand:
                    for new in set(configured) - self._stated:
                        self._stated.add(new)
                        self._say_of_model(new, self._answers(new))
            if name in configured:
                self._stated.add(name)
                self._say_of_model(name, self._answers(name))
            wanted = self._wanted()
            if not self._begun:
                self._begun = all(map(self._manager.is_settled, wanted))
            whole = self._serves(wanted)
            # The whole comes last: a caller who hears of it finds all else up to date.
            for service in (*self._running, ""):
                self._say(service, whole)

    def _answers(self, name: str) -> bool:
        if self._loads_on_demand and name not in self._wanted():
            return True
        return self._manager.is_available(name)

    def _serves(self, wanted: Collection[str]) -> bool:
        if self._strict is None:
            if not wanted and self._loads_on_demand:
                return self._begun
            return self._begun and any(map(self._manager.is_available, wanted))
        return not self._strict or all(map(self._manager.is_available, wanted))

    def _say_of_model(self, name: str, serving: bool | None) -> None:
        if name not in self._running and name not in _ADMIN:
            self._say(name, serving)
