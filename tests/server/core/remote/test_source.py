"""The source over folders and stores: each model goes its own way."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, until
from stores import BASE, FakeStore, publish

from ladle.server.config import Config
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.sources.file_system import FileSystemSource
from ladle.server.core.sources.source import MonitoredModel
from ladle.server.wiring.remote import RemoteModels
from ladle.store.errors import Unreachable
from ladle.store.store import Store
from ladle.store.url import StoreUrl, parse_url

FILES: Mapping[str, bytes] = {"saved_model.pb": b"graph"}
OTHER = parse_url("gs://other/m")


class Silent:
    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        pass

    def look_failed(self, model: str) -> None:
        pass

    def version_changed(self, model: str) -> None:
        pass


class Harness:
    def __init__(self, tmp_path: Path, poll_wait_s: float = 0.01) -> None:
        self.stores = {"bucket": FakeStore(), "other": FakeStore()}
        self.manager = Manager(FakeLoader())
        config = Config(
            model_base_path=str(tmp_path),
            model_cache_dir=str(tmp_path / "cache"),
            file_system_poll_wait_seconds=poll_wait_s,
        )
        self.remote = RemoteModels(config, lambda _: None, Silent(), open_store=self.open_store)
        self.source = FileSystemSource(
            self.manager, poll_wait_s=poll_wait_s, remote=self.remote.base
        )

    def open_store(self, url: StoreUrl) -> Store:
        return self.stores[url.bucket]

    def stop(self) -> None:
        self.source.stop()
        self.remote.stop()
        self.manager.stop(TIMEOUT_S)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path)
    yield made
    made.stop()


def test_a_store_that_stalls_holds_up_no_other_model(there: Harness, tmp_path: Path) -> None:
    gate = threading.Event()

    def stall(_request: str, _key: str) -> None:
        gate.wait(TIMEOUT_S)

    there.stores["bucket"].before = stall
    publish(there.stores["bucket"], 1, FILES)
    publish(there.stores["other"], 1, FILES, OTHER)
    (tmp_path / "local" / "1").mkdir(parents=True)
    slow = [MonitoredModel(f"slow{i}", BASE) for i in range(20)]
    there.source.set_models(
        [*slow, MonitoredModel("local", tmp_path / "local"), MonitoredModel("other", OTHER)]
    )
    there.source.start()
    until(lambda: there.manager.is_available("local") and there.manager.is_available("other"))
    assert not there.manager.is_available("slow0")
    assert not there.manager.is_settled("slow0")
    gate.set()
    until(lambda: all(there.manager.is_available(model.name) for model in slow))


def test_a_download_that_stalls_holds_up_no_other_store(there: Harness) -> None:
    gate = threading.Event()

    def stall(request: str, _key: str) -> None:
        if request == "get":
            gate.wait(TIMEOUT_S)

    there.stores["bucket"].before = stall
    publish(there.stores["bucket"], 1, FILES)
    publish(there.stores["other"], 1, FILES, OTHER)
    there.source.set_models([MonitoredModel("slow", BASE), MonitoredModel("other", OTHER)])
    there.source.start()
    until(lambda: there.manager.is_available("other"))
    assert not there.manager.is_available("slow")
    gate.set()
    until(lambda: there.manager.is_available("slow"))


@pytest.mark.parametrize("poll_wait_s", [0, -1])
def test_without_polls_a_rescan_brings_what_is_there(tmp_path: Path, poll_wait_s: float) -> None:
    there = Harness(tmp_path, poll_wait_s)
    try:
        publish(there.stores["bucket"], 1, FILES)
        there.source.set_models([MonitoredModel("m", BASE)])
        there.source.start()
        if poll_wait_s < 0:
            assert not there.stores["bucket"].requests
            there.source.rescan("m")
        until(lambda: there.manager.is_available("m", 1))
        publish(there.stores["bucket"], 2, FILES)
        there.source.rescan("m")
        until(lambda: there.manager.is_available("m", 2))
    finally:
        there.stop()


def test_a_model_moves_from_a_folder_into_a_store_without_a_gap(
    there: Harness, tmp_path: Path
) -> None:
    (tmp_path / "local" / "1").mkdir(parents=True)
    there.source.set_models([MonitoredModel("m", tmp_path / "local")])
    there.source.start()
    until(lambda: there.manager.is_available("m", 1))
    publish(there.stores["bucket"], 2, FILES)
    gone = threading.Event()
    there.manager.add_listener(
        lambda name: None if there.manager.is_available(name) else gone.set()
    )
    there.source.set_models([MonitoredModel("m", BASE)])
    until(lambda: there.manager.is_available("m", 2))
    until(lambda: not there.manager.is_available("m", 1))
    assert not gone.is_set()


def test_whatever_a_store_does_a_model_that_was_available_stays_so(there: Harness) -> None:
    store = there.stores["bucket"]
    publish(store, 1, FILES)
    there.source.set_models([MonitoredModel("m", BASE)])
    there.source.start()
    until(lambda: there.manager.is_available("m"))

    def away(_request: str, _key: str) -> None:
        raise Unreachable(f"{BASE}: the store can't be reached")

    kept = dict(store.objects)
    store.objects.clear()
    there.source.rescan("m")
    there.source.rescan("m")
    assert there.manager.is_available("m", 1)
    store.before = away
    there.source.rescan("m")
    assert there.manager.is_available("m", 1)
    assert there.manager.problem("m") == f"{BASE}: the store can't be reached"
    store.before = lambda _request, _key: None
    store.objects.update(kept)
    there.source.rescan("m")
    assert there.manager.problem("m") is None
    assert there.manager.is_available("m", 1)
