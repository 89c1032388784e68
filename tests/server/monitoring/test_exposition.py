"""The text of all metrics: how much it is, and who may go on meanwhile."""

from __future__ import annotations

from pathlib import Path

from fakes import TIMEOUT_S, FakeLoader, until

from ladle.server.core.errors import NotFound
from ladle.server.core.lifecycle.manager import Manager, ManagerOptions
from ladle.server.core.observation import Loading, Observation, Run
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.exposition import Exposition
from ladle.server.monitoring.metrics import Metrics

MODELS = 200


def used(models: int) -> Metrics:
    """Metrics of so many models, each of which has answered a request of 2 ms."""
    metrics = Metrics()
    for number in range(models):
        servable_id = ServableId(f"model-{number}", 1)
        metrics.load_ended(Loading(servable_id, Path(f"/models/{number}"), 0.5, None))
        seen = Observation("Predict", "GRPC", b"12345")
        seen.served_by(servable_id)
        seen.signatures = ("serving_default",)
        seen.rows, seen.queued = 1, seen.began
        run = Run(servable_id, ("serving_default",), [seen], 1, 1, seen.began)
        run.end(seen.began, metrics)
        seen.end(b"answer", metrics)
    return metrics


def test_a_model_takes_few_kilobytes_of_the_metrics() -> None:
    text = Exposition(used(MODELS), Manager(FakeLoader()), pause=lambda: None)()
    assert len(text) < 10_000 * MODELS


def test_whoever_serves_goes_on_between_slices() -> None:
    metrics = used(MODELS)
    pauses: list[bool] = []

    def pause() -> None:
        free = metrics.lock.acquire(blocking=False)
        pauses.append(free)
        if free:
            metrics.lock.release()

    lines = Exposition(metrics, Manager(FakeLoader()), pause=pause)().count(b"\n")
    assert all(pauses)
    assert len(pauses) >= lines // 250


def test_a_version_that_could_not_be_loaded_is_a_series_of_its_own(tmp_path: Path) -> None:
    loader = FakeLoader()
    loader.failures[ServableId("m", 2)] = NotFound("no such variable")
    manager = Manager(loader, ManagerOptions(max_load_retries=0))
    manager.aspire("m", {1: tmp_path / "1", 2: tmp_path / "2"})
    exposition = Exposition(Metrics(), manager)
    line = b'ladle_version_problem{model="m",version="2",code="NOT_FOUND"} 1\n'
    until(lambda: line in exposition())
    assert b'ladle_version_problem{model="m",version="1"' not in exposition()
    manager.stop(TIMEOUT_S)
