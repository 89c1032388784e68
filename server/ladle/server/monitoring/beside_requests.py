"""Counts what is neither a request of a caller nor a run for one: stores, shadows and loads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ladle.server.core.errors import Code
from ladle.server.core.rollout.agreement import OTHERS, Comparison
from ladle.server.monitoring.catalogue import LadleMetrics

_MAX_OUTPUTS = 64


class StoreMetrics:
    """Hears of looks and downloads. Thread-safe."""

    def __init__(
        self, own: LadleMetrics, lock: threading.Lock, remember: Callable[[str], object]
    ) -> None:
        """Take the families, the lock that guards them, and what bounds the names of models.

        `remember` is called with the name of each model that is counted, with the lock held.
        """
        self._own = own
        self._lock = lock
        self._remember = remember

    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        """Count a version that was brought into the cache, or could not be."""
        with self._lock:
            self._remember(model)
            self._own.downloads.add(1, model, outcome)
            self._own.download_seconds.observe([took_s], model, outcome)
            if nbytes:
                self._own.download_bytes.add(nbytes, model)

    def look_failed(self, model: str) -> None:
        """Count a look that failed."""
        with self._lock:
            self._remember(model)
            self._own.failed_looks.add(1, model)

    def version_changed(self, model: str) -> None:
        """Count a version that was overwritten."""
        with self._lock:
            self._remember(model)
            self._own.changed_versions.add(1, model)


class ShadowMetrics:
    """Hears of each comparison. Thread-safe."""

    def __init__(self, own: LadleMetrics, lock: threading.Lock) -> None:
        """Take the families, and the lock that guards them."""
        self._own = own
        self._lock = lock

    def shadow_compared(self, comparison: Comparison) -> None:
        """Count a request that has run on a shadow."""
        own, which = self._own, (comparison.model, str(comparison.version))
        with self._lock:
            own.shadow_requests.add(1, *which, comparison.code.name)
            own.shadow_seconds.observe([comparison.took_s], *which)
            if comparison.code is not Code.OK:
                return
            own.shadow_rows.add(comparison.rows, *which)
            for number, found in enumerate(comparison.outputs):
                labels = (*which, found.output if number < _MAX_OUTPUTS else OTHERS)
                own.shadow_disagreeing_rows.add(found.off_rows, *labels)
                if found.problem:
                    own.shadow_problems.add(1, *labels, found.problem)
                if found.not_finite:
                    own.shadow_problems.add(1, *labels, "not_finite")
                if found.measured:
                    own.shadow_differences.observe([found.max_abs], *labels)

    def shadow_dropped(self, model: str, reason: str) -> None:
        """Count a request that was to run on a shadow and did not."""
        with self._lock:
            self._own.shadow_dropped.add(1, model, reason)


class ResidencyMetrics:
    """Hears of models that are loaded on demand, and unloaded again. Thread-safe.

    There may be thousands of models: no label has their names.
    """

    def __init__(self, own: LadleMetrics, lock: threading.Lock) -> None:
        """Take the families, and the lock that guards them."""
        self._own = own
        self._lock = lock

    def load_wanted(self, cause: str) -> None:
        """Count a model that is about to be loaded."""
        with self._lock:
            self._own.model_loads.add(1, cause)

    def model_unloaded(self, reason: str) -> None:
        """Count a model that is about to be unloaded."""
        with self._lock:
            self._own.model_evictions.add(1, reason)

    def request_waited(self, seconds: float) -> None:
        """Count a request that has waited for its model."""
        with self._lock:
            self._own.model_load_wait.observe([seconds])
