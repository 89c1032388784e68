"""How each model does at this moment, for people: what the status page shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ladle.rollout.guard import HELD, NO_VERDICT, Figures, Guard, verdict
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.rollout.agreement import OutputAgreement
from ladle.server.core.rollout.router import Share
from ladle.server.core.rollout.shadow_runs import Standing
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.recent import WINDOW_S

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
    reason: str
    """Why it is held, in a sentence; empty if it is not."""
    requests: int
    """In the last minute."""
    failures: int
    """Of these."""
    requests_per_s: float
    failures_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, kw_only=True)
class OutputSnapshot:
    """One output of a shadow, beside that of stable."""

    rows: int
    disagreeing_rows: int
    top_changed: float | None
    """The part of rows whose top class is another; None where there are no classes."""
    max_abs: float | None
    """The largest difference; None for what is not a float, as for the next three."""
    mean_abs: float | None
    max_rel: float | None
    """Relative to the larger of two numbers: 0 to 2."""
    mean_rel: float | None
    not_finite: int
    """Numbers that are NaN or infinite in one of the two only."""
    problems: Mapping[str, int]
    """Answers in which it was missing, or had another dtype or shape."""
    detail: str
    """What was expected and what came, of the last of them."""


@dataclass(frozen=True, kw_only=True)
class ShadowSnapshot:
    """A version that answers nobody, compared with stable since both were there."""

    version: str
    stable: str
    share: float
    """Of the requests that stable answers, from 0 to 1."""
    requests: int
    """Requests that have run on it."""
    failures: int
    """Of these: stable had answered each."""
    last_error: str
    rows: int
    disagreeing_rows: int
    disagreement: float
    """The part of rows that came out otherwise, from 0 to 1; a failure counts as one row."""
    dropped: Mapping[str, int]
    """Requests that were not compared, by reason, since the roll-out was read."""
    p50_ms: float | None
    """What runs on it took, without transport and queue; None before the first."""
    p99_ms: float | None
    outputs: Mapping[str, OutputSnapshot]


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
    shadow: ShadowSnapshot | None = None
    """The version that its requests run on once more."""
    guard: Guard | None = None
    """What is asked of its canary: the roll-out's guard, or a guard's defaults; None without a
    roll-out."""
    verdict: str = ""
    """Whether the canary keeps it, at this server: `good`, `worse`, `held` or `no verdict`."""
    verdict_reason: str = ""


def snapshot(
    metrics: Metrics,
    manager: Manager,
    shadow: Callable[[str], Standing | None] = lambda _model: None,
    now: float | None = None,
) -> dict[str, ModelSnapshot]:
    """Return how each model does, by name: those that are served, and those asked of late.

    Args:
        metrics: what has counted.
        manager: what serves.
        shadow: returns how a model's shadow does.
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
                _shadow(shadow(name)),
                _guard(manager, name),
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
        reason=share.reason,
        requests=recent.count(now, WINDOW_S) if recent else 0,
        failures=recent.count(now, WINDOW_S, failed=True) if recent else 0,
        requests_per_s=recent.per_s(now, _RATE_S) if recent else 0.0,
        failures_per_s=recent.per_s(now, _RATE_S, failed=True) if recent else 0.0,
        p50_ms=p50,
        p99_ms=p99,
    )


def _shadow(standing: Standing | None) -> ShadowSnapshot | None:
    if standing is None:
        return None
    found = standing.agreement
    p50, p99 = found.run_s(0.5), found.run_s(0.99)
    return ShadowSnapshot(
        version=str(found.version),
        stable=str(found.stable),
        share=standing.share,
        requests=found.requests,
        failures=found.failures,
        last_error=found.last_error,
        rows=found.rows,
        disagreeing_rows=found.off_rows,
        disagreement=found.disagreement,
        dropped=standing.dropped,
        p50_ms=None if p50 is None else p50 * 1000,
        p99_ms=None if p99 is None else p99 * 1000,
        outputs={name: _output(output) for name, output in found.outputs.items()},
    )


def _guard(manager: Manager, name: str) -> Guard | None:
    rollout = manager.router.rollouts.get(name)
    return None if rollout is None else rollout.guard or Guard()


def _verdict(
    guard: Guard | None, parts: tuple[PartSnapshot, ...], shadow: ShadowSnapshot | None
) -> tuple[str, str]:
    by_part = {part.part: part for part in parts}
    canary = by_part.get("canary")
    if guard is None:
        return "", ""
    if canary is None:
        return NO_VERDICT, "no version is on trial"
    if canary.is_held:
        return HELD, canary.reason
    figures = _figures(canary)
    if shadow is not None and shadow.version == canary.version:
        figures = figures._replace(compared=shadow.requests, disagreement=shadow.disagreement)
    return verdict(guard, figures, _figures(by_part.get("stable")))


def _figures(part: PartSnapshot | None) -> Figures:
    if part is None:
        return Figures(0, 0, None)
    return Figures(part.requests, part.failures, None if part.p99_ms is None else part.p99_ms / 1e3)


def _output(found: OutputAgreement) -> OutputSnapshot:
    count = found.measured
    return OutputSnapshot(
        rows=found.rows,
        disagreeing_rows=found.off_rows,
        top_changed=found.top_changed / found.class_rows if found.class_rows else None,
        max_abs=found.max_abs if count else None,
        mean_abs=found.sum_abs / count if count else None,
        max_rel=found.max_rel if count else None,
        mean_rel=found.sum_rel / count if count else None,
        not_finite=found.not_finite,
        problems=found.problems,
        detail=found.detail,
    )


def _model(
    metrics: Metrics,
    name: str,
    now: float,
    held: list[int],
    rollout: tuple[PartSnapshot, ...],
    shadow: ShadowSnapshot | None,
    guard: Guard | None,
) -> ModelSnapshot:
    recent = metrics.recent.get(name)
    quantiles = recent and recent.latencies_s(now, (0.5, 0.95, 0.99))
    found, reason = _verdict(guard, rollout, shadow)
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
        shadow=shadow,
        guard=guard,
        verdict=found,
        verdict_reason=reason,
    )
