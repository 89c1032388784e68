"""What Prometheus reads: everything counted, and how things are at this moment."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Protocol

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.residents import Residents
from ladle.server.monitoring.families import OTHERS, Counters, Family, Gauges, slices
from ladle.server.monitoring.metrics import Metrics

# So many take half a millisecond. Those who serve wait no longer than that for Python's lock.
_LINES_AT_ONCE = 200
_PAUSE_S = 0.0005
_PACKAGES = ("ladle", "tensorflow", "grpcio", "numpy", "protobuf")


class Others(Protocol):
    """The workers that serve beside this one."""

    number: int
    """Which one this is."""

    def merged_families(self, own: list[Family]) -> Iterable[Family]:
        """Return the families of all workers as one server's; blocks a moment."""


class Exposition:
    """Makes the text. Thread-safe; blocks for some milliseconds, more with hundreds of models."""

    def __init__(
        self,
        metrics: Metrics,
        manager: Manager,
        residents: Residents | None = None,
        pause: Callable[[], None] = lambda: time.sleep(_PAUSE_S),
        others: Others | None = None,
    ) -> None:
        """Take what to show.

        Args:
            metrics: what was counted.
            manager: where the models are.
            residents: the models that are loaded on demand; None: all are loaded.
            pause: lets threads that serve go first; called without a lock, after each slice.
            others: the workers that serve beside this one; None where there are none.
        """
        self._pause = pause
        self._others = others
        self._metrics = metrics
        self._manager = manager
        self._residents = residents
        self._process: Callable[[], bytes] | None = None
        self._lock = threading.Lock()
        self._build = _build_info()

    def __call__(self) -> bytes:
        """Return all metrics in Prometheus's text format: those of all workers."""
        if self._others is None:
            return self._text(self._families()) + self._process_metrics()
        return self._text(self._others.merged_families(self.of_worker(self._others.number)))

    def of_worker(self, number: int) -> list[Family]:
        """Return the families of this process alone.

        Those about the process itself have its number as a label.
        """
        return [*self._families(), *_process_families(str(number))]

    def _families(self) -> Iterator[Family]:
        with self._metrics.lock:
            self._metrics.count()
            families = self._metrics.families()
        return chain(self._copies(families), self.gauges())

    def _text(self, families: Iterable[Family]) -> bytes:
        pieces: list[str] = []
        for piece in slices(families, _LINES_AT_ONCE):
            pieces.append(piece)
            self._pause()
        return "".join(pieces).encode()

    def _copies(self, families: Iterable[Family]) -> Iterator[Family]:
        for family in families:
            with self._metrics.lock:
                copy = family.copied()
            yield copy

    def gauges(self) -> Iterable[Family]:
        """Return how things are at this moment."""
        which = ("model", "version")
        in_flight = Gauges(
            "ladle_requests_in_flight", *which, about="Requests under way that hold a version."
        )
        requests = Gauges("ladle_queue_requests", *which, about="Requests that wait for a batch.")
        rows = Gauges("ladle_queue_rows", *which, about="Rows that wait for a batch.")
        nbytes = Gauges("ladle_queue_bytes", *which, about="Bytes of inputs that wait for a batch.")
        running = Gauges("ladle_batches_running", *which, about="Batches that run.")
        unwanted = Counters(
            "ladle_rows_in_vain_total", *which, about="Rows that ran for callers who had gone."
        )
        standings = Gauges(
            "ladle_signature_batching",
            *(*which, "signature", "state"),
            about="1 for how requests to a signature run: vouched, on trial, batched or alone.",
            across="most",
        )
        comparisons = Counters(
            "ladle_batch_comparisons_total",
            *which,
            about="Batches that were compared with lone runs of the same requests.",
        )
        for entry in self._manager.available():
            labels = entry.id.name, str(entry.id.version)
            if not self._metrics.has_own_series(entry.id.name):
                in_flight.add(entry.handles, OTHERS, "")
                continue
            in_flight.set(entry.handles, *labels)
            servable = entry.servable  # once: an unload takes it away at any moment
            if isinstance(servable, BatchingServable):
                depth = servable.depth
                requests.set(depth.requests, *labels)
                rows.set(depth.rows, *labels)
                nbytes.set(depth.nbytes, *labels)
                running.set(depth.running, *labels)
                unwanted.add(servable.unwanted_rows, *labels)
                comparisons.add(servable.comparisons, *labels)
                for signature, (standing, _) in servable.standings().items():
                    standings.set(1, *labels, signature, standing.value)
        states = Gauges(
            "ladle_version_state",
            *(*which, "state"),
            about="1 for the state that a version is in.",
            across="state",
        )
        problems = Gauges(
            "ladle_version_problem",
            *which,
            "code",
            about="1 for a version that can't be loaded, with the code of its error.",
            across="most",
        )
        for name in filter(self._metrics.has_own_series, self._manager.names()):
            for status in self._manager.status(name):
                if status.state is not State.END or status.error is not None:
                    states.set(1, name, str(status.version), status.state.name)
                if status.state is State.END and status.error is not None:
                    problems.set(1, name, str(status.version), status.error.code.name)
        shares = Gauges(
            "ladle_rollout_share",
            *("model", "part", "version"),
            about="The part of the requests without a version that a version gets, from 0 to 1.",
            across="mean",
        )
        held = Gauges(
            "ladle_rollout_held",
            *("model", "version"),
            about="1 for a version on trial that gets nothing because it did worse than it may.",
            across="most",
        )
        keyless = Counters(
            "ladle_rollout_keyless_total",
            "model",
            about="Requests that were split by chance, because they had no key.",
        )
        router = self._manager.router
        for name in router.rollouts:
            for share in router.shares(name):
                shares.set(share.share, name, share.part, str(share.version))
                if share.part == "canary":
                    held.set(float(share.is_held), name, str(share.version))
        for name, count in router.keyless().items():
            keyless.add(count, name)
        about = "Models that are configured, loaded or not."
        known = Gauges("ladle_models_known", about=about, across="most")
        loaded = Gauges("ladle_models_loaded", about="Models that are loaded, or about to be.")
        taken = Gauges("ladle_loaded_bytes", about="What loaded versions have taken of the heap.")
        if self._residents is not None:
            known.set(self._residents.known)
            loaded.set(self._residents.count)
            taken.set(self._residents.nbytes)
        waiting = (requests, rows, nbytes, running, unwanted, comparisons, standings)
        return (
            self._build,
            in_flight,
            *waiting,
            states,
            problems,
            shares,
            held,
            keyless,
            known,
            loaded,
            taken,
        )

    def _process_metrics(self) -> bytes:
        with self._lock:
            if self._process is None:
                self._process = _process_collector()
        return self._process()


def _process_families(worker: str) -> Iterator[Family]:
    """Yield what Prometheus's client says of the process, labelled with its worker."""
    from prometheus_client import GC_COLLECTOR, PROCESS_COLLECTOR

    for metric in chain(PROCESS_COLLECTOR.collect(), GC_COLLECTOR.collect()):
        family: Counters | None = None
        for sample in metric.samples:
            if family is None:
                make = Counters if metric.type == "counter" else Gauges
                family = make(
                    sample.name, "worker", *sample.labels, about=metric.documentation.strip()
                )
            family.values[(worker, *sample.labels.values())] = sample.value
        if family is not None:
            yield family


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
    about = "1, with what the server is made of."
    info = Gauges("ladle_build_info", *found, about=about, across="most")
    info.set(1, *found.values())
    return info
