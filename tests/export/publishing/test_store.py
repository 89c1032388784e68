"""Publishing in a store: whole or not at all, and one number for each publisher."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from stores import BASE, FakeStore, lose_first_answers, publish

from ladle.export import PublishError
from ladle.export.publishing.card import write_card
from ladle.export.publishing.store import StoreDestination
from ladle.protos.files.versions import HIDDEN_PREFIX
from ladle.protos.model_card import ModelCard
from ladle.store.errors import Denied, Unreachable
from ladle.store.layout import (
    CLAIM_NAME,
    MANIFEST_NAME,
    MAX_FILES,
    read_manifest,
    version_listing,
)

FILES = {"saved_model.pb": b"graph", "variables/v": b"numbers", "assets.extra/x": b""}


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def destination(store: FakeStore) -> StoreDestination:
    return StoreDestination(BASE, store)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


def is_whole(store: FakeStore, version: int) -> bool:
    prefix = f"{BASE.path}/{version}"
    return version_listing(prefix, store.list_all(prefix, most=99)).manifest is not None


def test_a_version_has_its_files_and_a_manifest_of_them(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    placed = destination.publish(staged)
    assert (placed.version, str(placed.place)) == (1, f"{BASE}/1")
    for path, data in FILES.items():
        assert store.objects[f"{BASE.path}/1/{path}"][0] == data
    manifest = read_manifest(store.objects[f"{BASE.path}/1/{MANIFEST_NAME}"][0])
    assert {path: file.size for path, file in manifest.items()} == {
        path: len(data) for path, data in FILES.items()
    }


def test_the_claim_comes_first_and_the_graph_and_the_manifest_last(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    destination.publish(staged)
    written = [
        key.removeprefix(f"{BASE.path}/1/")
        for request, key in store.requests
        if request in ("put", "upload")
    ]
    assert written[0] == CLAIM_NAME
    assert written[-2:] == ["saved_model.pb", MANIFEST_NAME]


@pytest.mark.parametrize("at", range(5))
def test_an_upload_that_fails_leaves_no_version_and_takes_its_objects_away(
    store: FakeStore, destination: StoreDestination, staged: Path, at: int
) -> None:
    left = at
    lock = threading.Lock()

    def fail(request: str, _key: str) -> None:
        nonlocal left
        with lock:
            left -= request in ("put", "upload")
            if left < 0 and request in ("put", "upload"):
                raise Unreachable("the store can't be reached")

    store.before = fail
    with pytest.raises(PublishError, match="can't be reached"):
        destination.publish(staged)
    assert not store.objects
    store.before = lambda _request, _key: None
    assert destination.publish(staged).version == 1


def test_a_publisher_that_is_killed_leaves_no_version(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    def killed(request: str, key: str) -> None:
        if key.endswith(MANIFEST_NAME) or request == "delete":
            raise Unreachable("gone")

    store.before = killed
    with pytest.raises(PublishError):
        destination.publish(staged)
    store.before = lambda _request, _key: None
    assert store.objects
    assert not is_whole(store, 1)
    assert destination.publish(staged).version == 2


def test_publishers_at_the_same_time_get_numbers_of_their_own(
    store: FakeStore, staged: Path
) -> None:
    gate = threading.Barrier(4)
    numbers: list[int] = []

    def publish_one() -> None:
        gate.wait()
        numbers.append(StoreDestination(BASE, store).publish(staged).version)

    threads = [threading.Thread(target=publish_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4]
    assert all(is_whole(store, number) for number in numbers)


def test_a_number_that_is_taken_is_refused(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    publish(store, 7, FILES)
    store.write(f"{BASE.path}/{HIDDEN_PREFIX}9", b"")
    for number in 7, 9:
        with pytest.raises(PublishError, match=f"version {number} is there already"):
            destination.check_free(number)
        with pytest.raises(PublishError, match="is never overwritten"):
            destination.publish(staged, number)
    assert destination.publish(staged, 8).version == 8
    assert destination.publish(staged).version == 10


def test_a_store_without_conditional_writes_is_found_out_before_the_training(
    store: FakeStore, destination: StoreDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination.prepare()
    assert not store.objects
    real = store.put
    monkeypatch.setattr(store, "put", lambda key, data, **_: real(key, data))
    with pytest.raises(PublishError, match="knows no If-None-Match"):
        destination.prepare()


def test_what_can_not_be_written_is_said_before_the_training(
    store: FakeStore, destination: StoreDestination
) -> None:
    def denied(request: str, _key: str) -> None:
        if request == "put":
            raise Denied(f"{BASE}: the store refuses access")

    store.before = denied
    with pytest.raises(PublishError, match="the store refuses access"):
        destination.prepare()


def test_a_version_is_no_base_path(store: FakeStore, destination: StoreDestination) -> None:
    store.write(f"{BASE.path}/saved_model.pb", b"graph")
    with pytest.raises(PublishError, match="this is a version itself"):
        destination.prepare()


def test_the_card_that_serves_is_the_highest_in_sight(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    assert destination.now_serving() is None
    for number in 1, 2:
        write_card(ModelCard(metrics={"accuracy": number / 10}), staged)
        destination.publish(staged)
    assert _accuracy(destination) == (2, 0.2)
    store.write(f"{BASE.path}/{HIDDEN_PREFIX}2", b"")
    assert _accuracy(destination) == (1, 0.1)
    store.write(f"{BASE.path}/1/assets.extra/ladle.json", b"nonsense")
    assert destination.now_serving() is None


def test_the_claim_says_who_has_it(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    destination.publish(staged)
    claim = json.loads(store.objects[f"{BASE.path}/1/{CLAIM_NAME}"][0])
    assert claim.keys() == {"host", "process", "at", "claim"}


def _accuracy(destination: StoreDestination) -> tuple[int, float]:
    serving = destination.now_serving()
    assert serving is not None
    return serving[0], serving[1].metrics["accuracy"]


def test_a_manifest_that_was_written_although_the_answer_was_lost_goes_too(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    def lose_the_answer(request: str, key: str) -> None:
        if request == "put" and key.endswith(MANIFEST_NAME):
            store.write(key, b"written")
            raise Unreachable("the answer of the store was cut off")

    store.before = lose_the_answer
    with pytest.raises(PublishError, match="cut off"):
        destination.publish(staged)
    assert not store.objects


def test_more_files_than_servers_take_are_refused_before_the_upload(
    store: FakeStore, destination: StoreDestination, tmp_path: Path
) -> None:
    for number in range(MAX_FILES + 1):
        (tmp_path / str(number)).touch()
    with pytest.raises(PublishError, match="expected at most 10000 files, got 10001"):
        destination.publish(tmp_path)
    assert not store.requests


def test_a_claim_that_was_written_although_the_answer_was_lost_is_the_publishers_own(
    store: FakeStore, destination: StoreDestination, staged: Path
) -> None:
    lose_first_answers(store, CLAIM_NAME)
    assert destination.publish(staged).version == 1
    assert is_whole(store, 1)
    publish(store, 2, FILES)
    assert destination.publish(staged).version == 3
