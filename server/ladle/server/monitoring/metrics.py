"""Counts requests, runs and loads. On their way they are only noted, and counted many at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from ladle.server.core.errors import Code, ServingError
from ladle.server.core.observation import Loading, Observation, Run
from ladle.server.core.servable_id import ServableId
from ladle.server.core.statistics import VersionStatistics
from ladle.server.monitoring.beside_requests import (
    ResidencyMetrics,
    ShadowMetrics,
    StoreMetrics,
)
from ladle.server.monitoring.catalogue import (
    COUNTED_BY_UPSTREAM,
    LadleMetrics,
    TFServingMetrics,
    families_of,
    protocol_of,
    runs_models,
)
from ladle.server.monitoring.families import OTHERS, Counters, Family
from ladle.server.monitoring.recent import Recent
from ladle.server.monitoring.statistics import StatisticsByVersion

T = TypeVar("T")

# Counting many at a time costs a tenth of counting each; whoever notes the last of so many counts.
_COUNTED_AT_ONCE = 512
# It is what is alike that is counted together, so with many models more are waited for; but whoever
# counts them holds up a request meanwhile, some microseconds for each.
_COUNTED_OF_A_KIND = 64
_MAX_AT_ONCE = 4 * _COUNTED_AT_ONCE
# Where notes come faster than they are counted, their threads wait from here on.
_MAX_PENDING = 32 * _COUNTED_AT_ONCE
# Versions come and go for years. The series of the oldest versions go too, unless they serve.
_MAX_VERSIONS = 64
_MAX_MODELS = 1024

# As upstream has it where no batching parameters name another.
_THREAD_POOL = "model_server_batch_threads"
SEVERAL = "(several)"
"""The signature of a run that is of several at once, as MultiInference's."""

_KEY = attrgetter("api", "entrypoint", "model", "version", "signatures", "code")
_RUN_KEY = attrgetter("servable_id", "signatures")


class Metrics:
    """An Observer that counts. Thread-safe."""

    takes_many = True

    def __init__(
        self,
        configured: Callable[[], Container[str]] = tuple,
        is_served: Callable[[str, int], bool] = lambda _name, _version: False,
        *,
        max_models: int = 0,
    ) -> None:
        """Take what there is; neither may block.

        Args:
            configured: returns the names of the models that there should be. The name in a request
                may be anything; it becomes a label only if it is of a model.
            is_served: whether a version of a model answers.
            max_models: how many models have series of their own: those that were loaded or used
                last. The others are counted together. 0: all that are configured.
        """
        self.upstream = TFServingMetrics()
        self.own = LadleMetrics()
        self.recent: dict[str, Recent] = {}
        """What has happened to each model of late; hold `lock` to read it."""
        self.recent_by_version: dict[ServableId, Recent] = {}
        """What has happened to each version of late; hold `lock` to read it."""
        self.lock = threading.Lock()
        self.stores = StoreMetrics(self.own, self.lock, self._remember_model)
        """Counts what comes from stores."""
        self.shadows = ShadowMetrics(self.own, self.lock)
        """Counts what comparisons with shadows show."""
        self.residency = ResidencyMetrics(self.own, self.lock)
        """Counts what is loaded on demand."""
        self._configured = configured
        self._is_served = is_served
        self._max_models = max_models
        self._at_once = _COUNTED_AT_ONCE
        # Appended to by any thread; emptied with `lock` held, which guards _versions too.
        self._requests: deque[Observation] = deque()
        self._runs: deque[Run] = deque()
        self._single: deque[tuple[Counters, tuple[str, ...]]] = deque()
        self._versions: dict[str, dict[int, str]] = {}
        self._statistics = StatisticsByVersion()

    def request_ended(self, request: Observation) -> None:
        """Note a request that has ended."""
        self._requests.append(request)
        if len(self._requests) >= self._at_once:
            self._count_if_nobody_does()

    def requests_ended(self, requests: Observation) -> None:
        """Note requests that have ended alike."""
        self.request_ended(requests)

    def run_ended(self, run: Run) -> None:
        """Note a run."""
        self._runs.append(run)
        if len(self._runs) >= self._at_once:
            self._count_if_nobody_does()

    def load_ended(self, load: Loading) -> None:
        """Count a load."""
        path = str(load.path)
        with self.lock:
            self.count()  # what went to the version's last life is no part of the next
            self._remember(load)
            if load.error is None:
                self._statistics.forget(load.servable_id)
            self.upstream.load_attempts.add(1, path, "fail" if load.error else "success")
            if load.error is None:
                self.upstream.load_latency.add(load.took_s * 1e6, path)
            self.own.load.observe([load.took_s], load.servable_id.name, _code(load.error))

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """Count a warm-up."""
        path, code = str(warmup.path), _code(warmup.error)
        with self.lock:
            self._remember(warmup)
            self.upstream.warmup_latency.observe([warmup.took_s], path, code)
            self.upstream.warmup_records.add(records, path, code)
            self.own.warmup.observe([warmup.took_s], warmup.servable_id.name, code)

    def request_logged(self, model: str, code: Code) -> None:
        """Note a request that was to be logged, and whether it could be."""
        self._note(self.upstream.request_log_count, model, code.name)

    def log_dropped(self, log: str, reason: str) -> None:
        """Note a record of a log that was given up."""
        self._note(self.own.dropped_logs, log, reason)

    def families(self) -> list[Family]:
        """Return all families; hold `lock`, and call `count` before."""
        return [*families_of(self.upstream), *families_of(self.own)]

    def count(self) -> None:
        """Count in all that was noted; the caller holds `lock`."""
        for counters, labels in _drained(self._single):
            counters.add(1, *labels)
        by_run = _grouped(_drained(self._runs), _RUN_KEY)
        for run_key, runs in by_run:
            self._count_runs(runs, *run_key)
        by_request = _grouped(_drained(self._requests), _KEY)
        for key, requests in by_request:
            self._count_requests(requests, *key)
        kinds = max(len(by_run), len(by_request))
        self._at_once = min(max(_COUNTED_AT_ONCE, _COUNTED_OF_A_KIND * kinds), _MAX_AT_ONCE)

    def totals(self) -> dict[str, int]:
        """Return the sum of every counter over all its labels, by its name."""
        with self.lock:
            self.count()
            return {f.name: int(f.total) for f in self.families() if f.kind == "counter"}  # type: ignore[union-attr]

    def statistics(self) -> Mapping[ServableId, VersionStatistics]:
        """Return what requests to each version have taken since it was loaded."""
        with self.lock:
            self.count()
            return self._statistics.copied()

    def _note(self, counters: Counters, *labels: str) -> None:
        self._single.append((counters, labels))
        if len(self._single) >= _COUNTED_AT_ONCE:
            self._count_if_nobody_does()

    def _count_if_nobody_does(self) -> None:
        pending = max(len(self._requests), len(self._runs), len(self._single))
        if self.lock.acquire(blocking=pending >= _MAX_PENDING):
            try:
                self.count()
            finally:
                self.lock.release()

    def _count_requests(
        self,
        requests: list[Observation],
        api: str,
        entrypoint: str,
        name: str,
        version: int | None,
        signatures: tuple[str, ...],
        code: Code,
    ) -> None:
        """Count requests that have these in common."""
        model = self._label(name, is_served=version is not None)
        upstream, own = self.upstream, self.own
        times, total = _times(requests)
        latencies = [(r.ended or 0.0) - r.began for r in requests]
        answered = code is Code.OK
        if COUNTED_BY_UPSTREAM.get(api, entrypoint == "REST"):
            upstream.request_count.add(total, model, code.name)
            if answered:
                upstream.request_latency.observe(latencies, model, api, entrypoint, times=times)
        which = (model, "" if version is None else str(version), signature_label(signatures))
        if model == OTHERS:
            which = (model, "", "")
        method = (api, entrypoint, protocol_of(api))
        own.requests.add(total, *which, *method, code.name)
        outcome = "answered" if answered else "refused"
        own.latency.observe(latencies, *which, *method, outcome, times=times)
        own.request_bytes.observe([r.request_bytes for r in requests], *which, times=times)
        if answered:
            own.response_bytes.observe([r.response_bytes for r in requests], *which, times=times)
        else:
            self._count_rejections(requests, model)
        ended = [r.ended or 0.0 for r in requests]
        if model and model != OTHERS:
            recent = self.recent.setdefault(model, Recent())
            recent.add(ended, latencies, failed=not answered, times=times)
        if version is not None and model != OTHERS:
            of_version = self.recent_by_version.setdefault(ServableId(name, version), Recent())
            of_version.add(ended, latencies, failed=not answered, times=times)
            self._statistics.add_requests(
                ServableId(name, version), api, requests, answered=answered
            )
        self._count_ways(api, model, which, requests)
        if version is not None and runs_models(api):
            self._count_priorities(requests)

    def _count_ways(
        self,
        api: str,
        model: str,
        which: tuple[str, str, str],
        requests: list[Observation],
    ) -> None:
        """Count how long each step took, for all requests that came so far."""
        queued = [r for r in requests if r.queued is not None]
        if not queued:
            return
        own, upstream = self.own, self.upstream
        times, _ = _times(queued)
        decoded = [r.queued - r.began for r in queued if r.queued is not None]
        own.decode.observe(decoded, *which, times=times)
        rows = [r.rows for r in queued]
        own.request_rows.observe(rows, *which, times=times)
        encoded = [
            (r.ended - r.encoding, r.count)
            for r in queued
            if r.ended is not None and r.encoding is not None
        ]
        own.encode.observe([took for took, _ in encoded], *which, times=_counts(encoded))
        if api == "MultiInference":
            upstream.example_counts.observe(rows, model)
            upstream.example_count_total.add(sum(rows), model)
        ran = [
            (r.queued, r.run, r.count) for r in queued if r.queued is not None and r.run is not None
        ]
        waited = [(max(0.0, run.started - since), count) for since, run, count in ran]
        times = _counts(waited)
        own.queue.observe([wait for wait, _ in waited], *which, times=times)
        upstream.queuing_latency.observe([wait for wait, _ in waited], _THREAD_POOL, times=times)
        took = [
            (run.computed - run.assembled, count)
            for _, run, count in ran
            if run.computed and run.assembled
        ]
        upstream.runtime_latency.observe(
            [each for each, _ in took], model, api, "TF1", times=_counts(took)
        )

    def _count_priorities(self, requests: list[Observation]) -> None:
        for priority in {request.priority for request in requests}:
            name = priority.name.lower()
            of_it = [request for request in requests if request.priority is priority]
            refused = sum([request.count for request in of_it if request.error is not None])
            answered = sum([request.count for request in of_it if request.error is None])
            if refused:
                self.own.priority_requests.add(refused, name, "refused")
            if answered:
                self.own.priority_requests.add(answered, name, "answered")
            waited = [
                (max(0.0, request.run.started - request.queued), request.count)
                for request in of_it
                if request.run is not None and request.queued is not None
            ]
            waits = [wait for wait, _ in waited]
            self.own.priority_queue.observe(waits, name, times=_counts(waited))

    def _count_runs(
        self, runs: list[Run], servable_id: ServableId, signatures: tuple[str, ...]
    ) -> None:
        own, upstream = self.own, self.upstream
        which = (servable_id.name, str(servable_id.version), signature_label(signatures))
        if self._label(servable_id.name, is_served=True) == OTHERS:
            which = (OTHERS, "", "")
        else:
            self._statistics.add_runs(servable_id, runs)
        own.batch_rows.observe([run.rows for run in runs], *which)
        own.batch_requests.observe([run.batched for run in runs], *which)
        own.batch_assembly.observe(
            [run.assembled - run.started for run in runs if run.assembled], *which
        )
        took = [run.computed - run.assembled for run in runs if run.computed and run.assembled]
        own.compute.observe(took, *which)
        if padding := sum([run.padding for run in runs]):
            own.batch_padding.add(padding, *which)
        if failed := sum([run.failed for run in runs]):
            own.failed_runs.add(failed, *which)
        upstream.wrapped_runs.add(len(runs))
        upstream.graph_runs.add(len(runs))
        upstream.session_runs.add(len(runs))
        upstream.graph_run_usecs.add(sum(took) * 1e6)
        upstream.input_batch.observe([run.rows for run in runs])
        upstream.processed_batch.observe([run.rows + run.padding for run in runs])
        for size, padded in _grouped(runs, lambda run: run.rows + run.padding):
            upstream.padding.observe([run.padding for run in padded], str(size))

    def _count_rejections(self, requests: Iterable[Observation], model: str) -> None:
        for request in requests:
            if request.error is not None and request.error.reason:
                self.own.rejected.add(request.count, model, request.error.reason)

    def has_own_series(self, name: str) -> bool:
        """Whether a model has series of its own."""
        return not self._max_models or name in self._versions

    def _label(self, name: str, *, is_served: bool) -> str:
        """Return the name if it is of a model, and else nothing.

        `is_served`: whether it is known to be of one.
        """
        if self._max_models:
            if name in self._versions:
                self._versions[name] = self._versions.pop(name)  # the last one to be given up
                return name
            return OTHERS if is_served or name in self._configured() else ""
        if is_served:
            return name
        if name not in self._versions:
            if name not in self._configured():
                return ""
            self._remember_model(name)
        return name

    def _remember(self, load: Loading) -> None:
        """Note that there is such a version, and forget the series of very old ones."""
        name, version = load.servable_id
        versions = self._remember_model(name)
        versions.pop(version, None)
        for old in _oldest(versions, _MAX_VERSIONS - 1, lambda v: self._is_served(name, v)):
            old_path = versions.pop(old)
            for family in self.families():
                family.forget(model=name, version=str(old))
                family.forget(model_path=old_path)
            self._statistics.forget(ServableId(name, old))
            self.recent_by_version.pop(ServableId(name, old), None)
        versions[version] = str(load.path)

    def _remember_model(self, name: str) -> dict[int, str]:
        """Note that there is such a model, and forget all of very old ones; return its versions.

        With `max_models`, count what there was of these among the others.
        """
        versions = self._versions.pop(name, {})
        bound = self._max_models
        is_needed = self._configured().__contains__
        for gone in _oldest(
            self._versions, (bound or _MAX_MODELS) - 1, _never if bound else is_needed
        ):
            paths = self._versions.pop(gone).values()
            self.recent.pop(gone, None)
            self._statistics.forget_model(gone)
            for servable_id in [i for i in self.recent_by_version if i.name == gone]:
                del self.recent_by_version[servable_id]
            for family in self.families():
                put_away = family.fold if bound else family.forget
                put_away(model=gone)
                put_away(model_name=gone)
                for old_path in paths:
                    family.forget(model_path=old_path)
        self._versions[name] = versions
        return versions


def signature_label(names: tuple[str, ...]) -> str:
    """Return the label of what runs: a signature's name, or SEVERAL for those that run as one."""
    return SEVERAL if len(names) > 1 else "".join(names)


def _oldest(known: Mapping[T, object], most: int, is_needed: Callable[[T], bool]) -> list[T]:
    """Return the first of the keys, so that `most` stay, or those that are needed."""
    too_many = max(0, len(known) - most)
    return list(islice((key for key in known if not is_needed(key)), too_many))


def _never(_name: object) -> bool:
    return False


def _code(error: Exception | None) -> str:
    if error is None:
        return Code.OK.name
    return error.code.name if isinstance(error, ServingError) else Code.INTERNAL.name


def _times(requests: Sequence[Observation]) -> tuple[Sequence[int] | None, int]:
    """Return how often each is to be counted, None standing for once; and how often that is."""
    counts = [request.count for request in requests]
    total = sum(counts)
    return (None if total == len(counts) else counts), total


def _counts(pairs: Sequence[tuple[float, int]]) -> Sequence[int]:
    return [count for _, count in pairs]


def _drained(pending: deque[T]) -> list[T]:
    return [pending.popleft() for _ in range(len(pending))]


def _grouped(items: list[T], key: Callable[[T], Any]) -> list[tuple[Any, list[T]]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.items())
