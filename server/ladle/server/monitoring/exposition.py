"""What Prometheus reads: everything counted, and how things are at this moment."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.states import State
from ladle.server.monitoring.families import Counters, Family, Gauges, text
from ladle.server.monitoring.metrics import Metrics

_PACKAGES = ("ladle", "tensorflow", "grpcio", "numpy", "protobuf")


class Exposition:
    """Makes the text. Thread-safe; takes a few milliseconds, in which an event loop would stand."""

    def __init__(self, metrics: Metrics, manager: Manager) -> None:
        self._metrics = metrics
        self._manager = manager
        self._process: Callable[[], bytes] | None = None
        self._lock = threading.Lock()
        self._build = _build_info()

    def __call__(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        with self._metrics.lock:
            self._metrics.count()
            counted = text(self._metrics.families())
        now = text([self._build, *self._gauges()])
        return (counted + now).encode() + self._process_metrics()

    def _gauges(self) -> Iterable[Family]:
        which = ("model", "version")
        in_flight = Gauges(
            "ladle_requests_in_flight", *which, about="Requests under way that hold a version."
        )
        requests = Gauges("ladle_queue_requests", *which, about="Requests that wait for a batch.")
        rows = Gauges("ladle_queue_rows", *which, about="Rows that wait for a batch.")
        nbytes = Gauges("ladle_queue_bytes", *which, about="Bytes of inputs that wait for a batch.")
        running = Gauges("ladle_batches_running", *which, about="Batches that run.")
        in_vain = Counters(
            "ladle_rows_in_vain_total", *which, about="Rows that ran for callers who had gone."
        )
        for entry in self._manager.available():
            labels = entry.id.name, str(entry.id.version)
            in_flight.set(entry.handles, *labels)
            servable = entry.servable  # once: an unload takes it away at any moment
            if isinstance(servable, BatchingServable):
                load = servable.load
                requests.set(load.requests, *labels)
                rows.set(load.rows, *labels)
                nbytes.set(load.nbytes, *labels)
                running.set(load.running, *labels)
                in_vain.add(servable.rows_in_vain, *labels)
        states = Gauges(
            "ladle_version_state", *which, "state", about="1 for the state that a version is in."
        )
        for name in self._manager.names():
            for status in self._manager.status(name):
                if status.state is not State.END or status.error is not None:
                    states.set(1, name, str(status.version), status.state.name)
        return in_flight, requests, rows, nbytes, running, in_vain, states

    def _process_metrics(self) -> bytes:
        with self._lock:
            if self._process is None:
                self._process = _process_collector()
        return self._process()


def _process_collector() -> Callable[[], bytes]:
    # Imported late: it starts nothing, but takes a tenth of a second.
    from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def _build_info() -> Gauges:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    found["python"] = platform.python_version()
    info = Gauges("ladle_build_info", *found, about="1, with what the server is made of.")
    info.set(1, *found.values())
    return info
