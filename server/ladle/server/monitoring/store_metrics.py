"""Counts what comes from stores."""

from __future__ import annotations

import threading

from ladle.server.monitoring.catalogue import LadleMetrics


class StoreMetrics:
    """Hears of looks and downloads. Thread-safe."""

    def __init__(self, own: LadleMetrics, lock: threading.Lock) -> None:
        """Take the families, and the lock that guards them."""
        self._own = own
        self._lock = lock

    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        """Count a version that was brought into the cache, or could not be."""
        with self._lock:
            self._own.downloads.add(1, model, outcome)
            self._own.download_seconds.observe([took_s], model, outcome)
            if nbytes:
                self._own.download_bytes.add(nbytes, model)

    def look_failed(self, model: str) -> None:
        """Count a look that failed."""
        with self._lock:
            self._own.failed_looks.add(1, model)

    def version_changed(self, model: str) -> None:
        """Count a version that was overwritten."""
        with self._lock:
            self._own.changed_versions.add(1, model)
