"""Adds up what requests and runs took, by version. Whoever calls holds the lock of the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ladle.server.core.observation import Observation, Run
from ladle.server.core.servable_id import ServableId
from ladle.server.core.statistics import StepDurations, VersionStatistics
from ladle.server.monitoring.catalogue import runs_models

# Requests that run alone may have any number of rows.
_MAX_SIZES = 1024


class StatisticsByVersion:
    """The statistics of each version since it was loaded."""

    def __init__(self) -> None:
        self._of: dict[ServableId, VersionStatistics] = {}

    def copied(self) -> Mapping[ServableId, VersionStatistics]:
        """Return all statistics; later requests don't change what is returned."""
        return {servable_id: of.copied() for servable_id, of in self._of.items()}

    def forget(self, servable_id: ServableId) -> None:
        """Forget a version: it is gone, or begins anew."""
        self._of.pop(servable_id, None)

    def forget_model(self, name: str) -> None:
        """Forget all versions of a model."""
        for servable_id in [servable_id for servable_id in self._of if servable_id.name == name]:
            del self._of[servable_id]

    def add_requests(
        self,
        servable_id: ServableId,
        api: str,
        requests: Sequence[Observation],
        *,
        answered: bool,
    ) -> None:
        """Add requests of one method that have ended alike."""
        if not runs_models(api):
            return
        of = self._of.setdefault(servable_id, VersionStatistics())
        took = last = 0.0
        total = 0
        for request in requests:
            ended = request.ended or 0.0
            total += request.count
            took += (ended - request.began) * request.count
            if ended > last:
                last = ended
        of.last_ended = max(of.last_ended or 0.0, last)
        if answered:
            of.success.add(total, took)
            _add_steps(of, requests, total)
        else:
            of.fail.add(total, took)

    def add_runs(self, servable_id: ServableId, runs: Iterable[Run]) -> None:
        """Add runs that have ended."""
        of = self._of.setdefault(servable_id, VersionStatistics())
        for run in runs:
            if run.assembled is None or run.computed is None:
                continue
            of.runs += 1
            steps = of.batches.get(run.rows)
            if steps is None:
                if len(of.batches) >= _MAX_SIZES:
                    continue
                steps = of.batches[run.rows] = StepDurations()
            steps.input.add(1, run.assembled - run.started)
            steps.compute.add(1, run.computed - run.assembled)
            steps.output.add(1, run.ended - run.computed)


def _add_steps(of: VersionStatistics, requests: Sequence[Observation], total: int) -> None:
    rows = 0
    waited = before = computed = after = 0.0
    for request in requests:
        times = request.count
        rows += request.rows * times
        queued, run, ended = request.queued, request.run, request.ended
        if queued is None or ended is None or run is None:
            continue
        if run.assembled is not None and run.computed is not None:
            waited += max(0.0, run.started - queued) * times
            before += (queued - request.began + run.assembled - run.started) * times
            computed += (run.computed - run.assembled) * times
            after += (ended - run.computed) * times
    of.rows += rows
    # Each once for a request: clients divide one by the other, and compare the counts.
    of.queue.add(total, waited)
    of.steps.input.add(total, before)
    of.steps.compute.add(total, computed)
    of.steps.output.add(total, after)
