"""Several observers of requests, runs and loads, as one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ladle.server.core.observation import Loading, Observation, Observer, Run

logger = logging.getLogger(__name__)


class Fanout:
    """An Observer that tells several, in their order, whatever one of them raises."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._of_requests = [observer.request_ended for observer in observers]
        self._of_runs = [observer.run_ended for observer in observers]
        self._of_loads = [observer.load_ended for observer in observers]
        self._of_warmups = [observer.warmup_ended for observer in observers]

    def request_ended(self, request: Observation) -> None:
        """Pass it on."""
        _call_each(self._of_requests, request)

    def run_ended(self, run: Run) -> None:
        """Pass it on."""
        _call_each(self._of_runs, run)

    def load_ended(self, load: Loading) -> None:
        """Pass it on."""
        _call_each(self._of_loads, load)

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """Pass it on."""
        _call_each(self._of_warmups, warmup, records)


def _call_each(methods: Sequence[Callable[..., None]], *event: object) -> None:
    for method in methods:
        try:
            method(*event)
        except Exception:
            logger.exception("an observer failed")
