"""A canary that does worse than it may is held, until its label or the file changes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, until

from ladle.rollout.guard import Guard
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.rollout.router import Share
from ladle.server.core.rollout.split import Rollout
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.recent import Recent
from ladle.server.wiring.rollout_guard import RolloutGuard

ROLLOUT = Rollout(
    model="m", canary_label="canary", canary_buckets=10_000, guard=Guard(min_requests=10)
)


def test_a_canary_that_fails_is_held(caplog: pytest.LogCaptureFixture) -> None:
    manager, metrics = Manager(FakeLoader()), Metrics()
    manager.aspire("m", {version: Path() for version in (1, 2, 3)})
    until(lambda: all(manager.is_available("m", version) for version in (1, 2, 3)))
    manager.set_labels({"m": {"stable": 1, "canary": 2}})
    router = manager.router
    router.replace([ROLLOUT])
    guard = RolloutGuard(router, metrics, now=lambda: 100.0)

    def count(version: int, requests: int, failures: int) -> None:
        recent = metrics.recent_by_version.setdefault(ServableId("m", version), Recent())
        recent.add([90.0] * (requests - failures), [0.01] * (requests - failures), failed=False)
        recent.add([90.0] * failures, [0.01] * failures, failed=True)

    def chosen() -> int | None:
        return router.choose("m", lambda _name: None)

    count(1, 100, 0)
    count(2, 9, 9)
    guard.step()
    assert chosen() == 2
    count(2, 1, 1)
    with caplog.at_level(logging.ERROR):
        guard.step()
        guard.step()
    assert chosen() == 1
    why = "10 of 10 requests failed: 100.00%, expected at most 1.00%"
    held = Share("canary", 2, 0.0, is_held=True, reason=why)
    assert router.shares("m") == (Share("stable", 1, 1.0), held)
    (record,) = caplog.records
    assert record.getMessage() == (
        "model m: version 2 is held, and stable gets its requests: "
        "10 of 10 requests failed: 100.00%, expected at most 1.00%"
    )
    # Another version under the label has another chance, and so has each after a new file.
    manager.set_labels({"m": {"stable": 1, "canary": 3}})
    assert chosen() == 3
    manager.set_labels({"m": {"stable": 1, "canary": 2}})
    assert chosen() == 1
    router.replace([ROLLOUT])
    assert chosen() == 2
    manager.stop(TIMEOUT_S)
