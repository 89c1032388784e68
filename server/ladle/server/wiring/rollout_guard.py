"""Watches the versions on trial, and takes their part away from those that do worse than they may.

A server holds by itself, since that is always safe. It never promotes: it sees a part of the
requests only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ladle.rollout.guard import Figures, breach
from ladle.server.core.rollout.router import Router
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.recent import WINDOW_S

logger = logging.getLogger(__name__)


class RolloutGuard:
    """Each `step` is a look; one thread calls it."""

    def __init__(
        self,
        router: Router,
        metrics: Metrics,
        shadows: ShadowRuns | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what splits the requests, and what has counted them.

        Args:
            router: the roll-outs.
            metrics: what has counted.
            shadows: what has compared answers; None for nothing.
            now: the time by which requests are counted.
        """
        self._router = router
        self._metrics = metrics
        self._shadows = shadows
        self._now = now

    def step(self) -> None:
        """Hold each canary that does worse than it may."""
        for model, rollout in self._router.rollouts.items():
            if rollout.guard is None:
                continue
            parts = {share.part: share for share in self._router.shares(model)}
            canary, stable = parts.get("canary"), parts.get("stable")
            if canary is None or canary.is_held:
                continue
            with self._metrics.lock:
                self._metrics.count()
                of_canary = self._figures(model, canary.version)
                of_stable = self._figures(model, stable.version if stable else None)
            of_canary = self._with_agreement(model, canary.version, of_canary)
            reason = breach(rollout.guard, of_canary, of_stable)
            if reason:
                self._router.hold(model, canary.version, reason)
                logger.error(
                    "model %s: version %d is held, and stable gets its requests: %s",
                    *(model, canary.version, reason),
                )

    def _with_agreement(self, model: str, version: int, figures: Figures) -> Figures:
        standing = self._shadows.standing(model) if self._shadows else None
        if standing is None or standing.agreement.version != version:
            return figures
        found = standing.agreement
        return figures._replace(compared=found.requests, disagreement=found.disagreement)

    def _figures(self, model: str, version: int | None) -> Figures:
        recent = None
        if version is not None:
            recent = self._metrics.recent_by_version.get(ServableId(model, version))
        if recent is None:
            return Figures(0, 0, None)
        now = self._now()
        quantiles = recent.latencies_s(now, (0.99,))
        return Figures(
            recent.count(now, WINDOW_S),
            recent.count(now, WINDOW_S, failed=True),
            quantiles[0] if quantiles else None,
        )
