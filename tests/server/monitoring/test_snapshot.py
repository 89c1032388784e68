from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, FakeServable, until
from server.monitoring.conftest import PREDICT, Watch, predict_request

from ladle.protos.serving_pb import ModelServerConfig, ReloadConfigRequest, ReloadConfigResponse
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Entry
from ladle.server.core.servable_id import ServableId
from ladle.server.monitoring.exposition import Exposition
from ladle.server.monitoring.metrics import Metrics
from ladle.server.monitoring.recent import Recent
from ladle.server.monitoring.snapshot import snapshot

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


def test_rates_and_latencies_are_those_of_late() -> None:
    recent = Recent()
    recent.add([100.2, 100.9, 101.5], [0.001, 0.002, 0.003], failed=False)
    recent.add([101.7], [5.0], failed=True)

    assert recent.per_s(102.5, 2) == 4 / 2
    assert recent.per_s(102.5, 2, failed=True) == 1 / 2
    assert recent.latencies_s(102.5, [0.0, 0.5, 1.0]) == [0.001, 0.002, 0.003]
    assert recent.per_s(300.0, 10) == 0
    assert recent.latencies_s(300.0, [0.5]) is None


def test_what_is_remembered_of_the_past_is_bounded() -> None:
    recent = Recent()
    sizes = []
    for second in range(10_000):
        recent.add([float(second)] * 3, [0.1] * 3, failed=True)
        recent.add([float(second)] * 3, [0.1] * 3, failed=False)
        if second % 1000 == 999:
            sizes.append(len(pickle.dumps(recent)))

    assert max(sizes) < 1.1 * sizes[0]


def test_a_snapshot_tells_how_a_model_does(watch: Watch) -> None:
    watched = watch()
    for _ in range(5):
        watched.call(PREDICT, predict_request())
    watched.model.hold()
    running = watched.begin()
    # Not when the model is entered: a comparison of batches enters it too.
    until(lambda: watched.server.snapshot()["m"].running_batches == 1)

    told = watched.server.snapshot()["m"]

    assert told.p50_ms is not None
    assert told.p99_ms is not None
    assert 0 < told.p50_ms <= told.p99_ms < 1000 * TIMEOUT_S
    assert (told.in_flight, told.queue_requests, told.running_batches) == (1, 0, 1)
    watched.model.release()
    running.result()


def test_how_requests_to_each_signature_run_is_shown(watch: Watch) -> None:
    """Nobody vouches for the signature of a server with default flags."""
    watched = watch()
    watched.call(PREDICT, predict_request())

    assert (
        b'ladle_signature_batching{model="m",version="1",signature="serving_default",'
        b'state="on trial"} 1' in watched.server.exposition()
    )
    (model,) = watched.http.get("/status.json").json()["models"]
    (version,) = model["versions"]
    assert version["signatures"]["serving_default"]["batching"] == {
        "state": "on trial",
        "reason": "0 of 32 batches had the answers of lone runs so far",
    }


def test_a_version_that_unloads_meanwhile_is_no_trouble() -> None:
    """Its servable is there at one look, and gone at the next."""

    class Unloading(Entry):
        servable = property(lambda self: next(self.looks, None), lambda self, _: None)

    class Managing(Manager):
        def available(self) -> list[Entry]:
            entry = Unloading(ServableId("m", 1), Path("/m/1"))
            entry.looks = iter([batching])  # type: ignore[attr-defined]
            return [entry]

    batching = BatchingServable(FakeServable(), BatchOptions())
    metrics, manager = Metrics(), Managing(FakeLoader())

    assert snapshot(metrics, manager)["m"].queue_requests == 0
    assert b"ladle_queue_requests" in Exposition(metrics, manager)()


@pytest.mark.parametrize(
    "name",
    [
        "/tensorflow/cc/saved_model/load_attempt_count",
        ":tensorflow:cc:saved_model:load_attempt_count",
    ],
)
def test_a_reload_tells_how_far_counters_moved(watch: Watch, tmp_path: Path, name: str) -> None:
    watched = watch()
    (tmp_path / "n" / "1").mkdir(parents=True)
    request = ReloadConfigRequest(metric_names=[name, "/no/such/counter", name])
    models = ModelServerConfig().model_config_list
    for model in ("m", "n"):
        models.config.add(name=model, base_path=str(tmp_path / model), model_platform="tensorflow")
    request.config.model_config_list.CopyFrom(models)

    response = ReloadConfigResponse.FromString(watched.call(RELOAD, request.SerializeToString()))

    assert [(m.name, m.int64_value_increase) for m in response.metric] == [(name, 1)]
