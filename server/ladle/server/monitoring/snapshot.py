"""How each model does at this moment, for people: what the status page shows."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.rollout.router import Share
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.metrics import Metrics

_RATE_S = 10


@dataclass(frozen=True, kw_only=True)
class PartSnapshot:
    """One version's of a model with a roll-out; rates and latencies as the model's."""

    part: str
    """`stable` or `canary`."""
    version: str
    share: float
    """Of the requests that name no version, from 0 to 1."""
    is_held: bool
    """Whether it gets nothing because it did worse than it may."""
    requests_per_s: float
    failures_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class ModelSnapshot:
    """One model's; rates are of the last 10 s, latencies of the last minute's answers."""

    requests_per_s: float
    failures_per_s: float
    p50_ms: float | None
    """None where nothing was answered of late, as for the next two."""
    p95_ms: float | None
    p99_ms: float | None
    in_flight: int
    """Requests that hold a version, whether they wait or run."""
    queue_requests: int
    queue_rows: int
    running_batches: int
    rollout: tuple[PartSnapshot, ...] = ()
    """The versions that share its requests; nothing without a roll-out."""


def snapshot(
    metrics: Metrics, manager: Manager, now: float | None = None
) -> dict[str, ModelSnapshot]:
    """Return how each model does, by name: those that are served, and those asked of late.

    Args:
        metrics: what has counted.
        manager: what serves.
        now: the monotonic time.
    """
    now = time.monotonic() if now is None else now
    held: dict[str, list[int]] = {}
    for entry in manager.available():
        counts = held.setdefault(entry.id.name, [0, 0, 0, 0])
        counts[0] += entry.handles
        servable = entry.servable  # once: an unload takes it away at any moment
        if isinstance(servable, BatchingServable):
            depth = servable.depth
            counts[1] += depth.requests
            counts[2] += depth.rows
            counts[3] += depth.running
    with metrics.lock:
        metrics.count()
        return {
            name: _model(
                metrics,
                name,
                now,
                held.get(name, [0, 0, 0, 0]),
                tuple(_part(metrics, name, now, s) for s in manager.router.shares(name)),
            )
            for name in sorted({*held, *metrics.recent})
        }


def _part(metrics: Metrics, name: str, now: float, share: Share) -> PartSnapshot:
    recent = metrics.recent_by_version.get(ServableId(name, share.version))
    quantiles = recent and recent.latencies_s(now, (0.5, 0.99))
    p50, p99 = (q * 1000 for q in quantiles) if quantiles else (None, None)
    return PartSnapshot(
        part=share.part,
        version=str(share.version),
        share=share.share,
        is_held=share.is_held,
        requests_per_s=recent.per_s(now, _RATE_S) if recent else 0.0,
        failures_per_s=recent.per_s(now, _RATE_S, failed=True) if recent else 0.0,
        p50_ms=p50,
        p99_ms=p99,
    )


def _model(
    metrics: Metrics,
    name: str,
    now: float,
    held: list[int],
    rollout: tuple[PartSnapshot, ...],
) -> ModelSnapshot:
    recent = metrics.recent.get(name)
    quantiles = recent and recent.latencies_s(now, (0.5, 0.95, 0.99))
    p50, p95, p99 = (q * 1000 for q in quantiles) if quantiles else (None, None, None)
    return ModelSnapshot(
        requests_per_s=recent.per_s(now, _RATE_S) if recent else 0.0,
        failures_per_s=recent.per_s(now, _RATE_S, failed=True) if recent else 0.0,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        in_flight=held[0],
        queue_requests=held[1],
        queue_rows=held[2],
        running_batches=held[3],
        rollout=rollout,
    )
