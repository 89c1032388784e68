"""Changes of models that services make in one worker, and all workers take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from fakes import FakeLoader

from ladle.server.core.errors import FailedPrecondition, NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.config import ModelConfig, RequestLogging
from ladle.server.core.models.model_set import ModelSet
from ladle.server.core.sources.source import MonitoredModel
from ladle.server.core.sources.version_policy import Specific
from ladle.server.wiring.workers.serving.shared_models import SharedModels, Taking, to_text
from ladle.server.wiring.workers.serving.siblings import Siblings

PLAIN = ModelConfig("plain", Path("/models/plain"))
RICH = ModelConfig(
    "rich",
    Path("/models/rich"),
    Specific(frozenset({2, 3})),
    logging=RequestLogging(0.5, "/logs/rich"),
)


class Source:
    """Finds nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.scanned: list[str] = []

    def set_models(self, models: Iterable[MonitoredModel]) -> None: ...

    def rescan(self, name: str) -> bool:
        self.scanned.append(name)
        return True

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Worker:
    """One worker's models."""

    def __init__(self) -> None:
        self.source = Source()
        self.models = ModelSet(Manager(FakeLoader()), cast(Any, self.source))
        self.taking = Taking(self.models)


class Supervisor:
    """Does at once what supervisor and workers do by messages."""

    def __init__(self, *workers: Worker) -> None:
        self._workers = workers

    def change(self, body: Mapping[str, str]) -> Any:
        body = json.loads(json.dumps(body))
        for worker in self._workers:
            worker.taking.check(body)
        answers = [worker.taking.apply(body) for worker in self._workers]
        return json.loads(json.dumps(answers[0]))


@pytest.fixture
def workers() -> tuple[Worker, Worker]:
    return Worker(), Worker()


@pytest.fixture
def shared(workers: tuple[Worker, Worker]) -> SharedModels:
    return SharedModels(workers[0].models, cast(Siblings, Supervisor(*workers)))


def test_each_change_reaches_all_workers_as_it_was_made(
    shared: SharedModels, workers: tuple[Worker, Worker]
) -> None:
    assert shared.replace([PLAIN]) == {"plain"}
    shared.add(RICH)
    for worker in workers:
        assert worker.models.models == {"plain": PLAIN, "rich": RICH}
    shared.set_aside("rich")
    assert shared.absent() == {"rich"}
    assert all(worker.models.models.keys() == {"plain"} for worker in workers)
    assert shared.bring_back("rich")
    assert not shared.bring_back("rich")
    shared.rescan("rich")
    assert [worker.source.scanned for worker in workers] == [["rich"], ["rich"]]
    shared.remove("plain")
    assert all(worker.models.models == {"rich": RICH} for worker in workers)
    assert shared.models == {"rich": RICH}


def test_what_can_not_be_done_changes_nothing_anywhere(
    shared: SharedModels, workers: tuple[Worker, Worker]
) -> None:
    shared.replace([PLAIN])
    labelled = ModelConfig("plain", PLAIN.base_path, labels={"stable": 1})
    with pytest.raises(FailedPrecondition, match="version 1 of model plain"):
        shared.replace([labelled])
    with pytest.raises(FailedPrecondition, match="version 1 of model plain"):
        shared.add(labelled)
    for change in (shared.remove, shared.set_aside, shared.rescan):
        with pytest.raises(NotFound, match="x is not configured"):
            change("x")
    assert all(worker.models.models == {"plain": PLAIN} for worker in workers)


def test_a_worker_that_starts_takes_labels_on_versions_that_it_has_not_loaded_yet() -> None:
    labelled = ModelConfig("plain", PLAIN.base_path, labels={"stable": 1})
    for kind in ("replace", "add"):
        worker = Worker()
        change = {"kind": kind, "models": to_text([labelled])}
        with pytest.raises(FailedPrecondition):
            worker.taking.apply({**change, "starts": False})
        worker.taking.apply({**change, "starts": True})
        assert worker.models.models == {"plain": labelled}


def test_a_worker_that_comes_later_has_what_the_others_have(
    shared: SharedModels, workers: tuple[Worker, Worker]
) -> None:
    shared.replace([PLAIN, RICH])
    shared.set_aside("plain")
    later = Worker()
    later.taking.restore(json.loads(json.dumps(workers[1].taking.state())))
    assert later.models.models == {"rich": RICH}
    assert later.models.bring_back("plain")
    assert later.models.models == {"rich": RICH, "plain": PLAIN}
