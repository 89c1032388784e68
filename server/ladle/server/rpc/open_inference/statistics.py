"""ModelStatistics: what requests to each version have taken since it was loaded."""

from __future__ import annotations

import time

from ladle.protos.inference_pb import (
    InferBatchStatistics,
    InferStatistics,
    ModelStatistics,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    StatisticDuration,
)
from ladle.server.core.errors import NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable_id import ServableId
from ladle.server.core.statistics import Duration, Statistics, VersionStatistics
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.request import parse


class ModelStatisticsMethod:
    """Answers ModelStatistics calls. Thread-safe; nothing here waits."""

    def __init__(self, manager: Manager, statistics: Statistics) -> None:
        self._manager = manager
        self._statistics = statistics

    def __call__(self, call: ObservedCall) -> bytes:
        """Return the statistics of a version, of a model's versions, or of all that can be had.

        Raises:
            NotFound: There is no such model, or no such version of it can be had.
        """
        request = parse(ModelStatisticsRequest, call.request)
        available = [entry.id for entry in self._manager.available()]
        given = {name: name for name, _ in available}
        if request.name:
            name, spec = names.parse_known(request.name, request.version, self._manager)
            call.observation.model = name.model
            given = {name.model: name.given}
            available = [version for version in available if version.name == name.model]
            if spec.HasField("version"):
                wanted = spec.version.value
                available = [version for version in available if version.version == wanted]
            if not available:
                raise names.missing(name, spec, self._manager)
        elif request.version:
            raise NotFound("expected the name of a model beside its version, got none")
        found = self._statistics()
        epoch = time.time() - time.monotonic()
        response = ModelStatisticsResponse(
            model_stats=[
                _proto(given[one.name], one, found.get(one) or VersionStatistics(), epoch)
                for one in sorted(available)
            ]
        )
        return response.SerializeToString()


def _proto(
    name: str, servable_id: ServableId, of: VersionStatistics, epoch: float
) -> ModelStatistics:
    last = 0 if of.last_ended is None else int((epoch + of.last_ended) * 1000)
    return ModelStatistics(
        name=name,
        version=str(servable_id.version),
        last_inference=last,
        inference_count=of.rows,
        execution_count=of.runs,
        inference_stats=InferStatistics(
            success=_duration(of.success),
            fail=_duration(of.fail),
            queue=_duration(of.queue),
            compute_input=_duration(of.steps.input),
            compute_infer=_duration(of.steps.compute),
            compute_output=_duration(of.steps.output),
            cache_hit=StatisticDuration(),
            cache_miss=StatisticDuration(),
        ),
        batch_stats=[
            InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(steps.input),
                compute_infer=_duration(steps.compute),
                compute_output=_duration(steps.output),
            )
            for rows, steps in sorted(of.batches.items())
        ],
    )


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=max(0, round(duration.seconds * 1e9)))
