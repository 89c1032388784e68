"""Several observers of requests, runs and loads, as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ladle.server.core.observation import Loading, Observation, Observer, Run, Unobserved

logger = logging.getLogger(__name__)


class Fanout:
    """An Observer that tells several, in their order, whatever one of them raises."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._of_requests = _hearing(observers, "request_ended")
        self._of_runs = _hearing(observers, "run_ended")
        self._of_loads = _hearing(observers, "load_ended")
        self._of_warmups = _hearing(observers, "warmup_ended")

    def request_ended(self, request: Observation) -> None:
        """Pass it on."""
        _tell(self._of_requests, request)

    def run_ended(self, run: Run) -> None:
        """Pass it on."""
        _tell(self._of_runs, run)

    def load_ended(self, load: Loading) -> None:
        """Pass it on."""
        _tell(self._of_loads, load)

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """Pass it on."""
        _tell(self._of_warmups, warmup, records)


def _hearing(observers: Sequence[Observer], event: str) -> list[Callable[..., None]]:
    """Return the methods for an event, without those that do nothing."""
    nothing = getattr(Unobserved, event)
    return [getattr(o, event) for o in observers if getattr(type(o), event) is not nothing]


def _tell(methods: Sequence[Callable[..., None]], *event: object) -> None:
    for method in methods:
        try:
            method(*event)
        except Exception:
            logger.exception("an observer failed")
