"""A base whose store does not answer: what the cache has serves."""

from __future__ import annotations

from pathlib import Path

from server.core.remote.by_hand import ONE, TWO, Harness, unreachable
from stores import BASE, publish, upload_order

from ladle.protos.files.versions import LABELS_NAME


def test_a_start_without_the_store_serves_from_the_cache(tmp_path: Path) -> None:
    first = Harness(tmp_path)
    publish(first.store, 1, ONE)
    first.store.write(f"{BASE.path}/{LABELS_NAME}", b'{"stable": 1}')
    first.look()
    first.base.close()
    second = Harness(tmp_path, first.store)
    second.store.before = unreachable
    found = second.look()
    assert second.content(1) == ONE
    assert second.labels == {"stable": 1}
    assert (found.problem, found.final) == (
        f"{BASE}: the store can't be reached: connection refused",
        False,
    )
    second.store.before = lambda _request, _key: None
    publish(second.store, 2, TWO)
    assert second.look().problem is None
    assert sorted(second.served) == [1, 2]  # the one has the label, the other is the latest


def test_without_a_cache_a_store_that_is_away_is_waited_for(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.store.before = unreachable
    found = there.look(times=3)
    assert (found.wanted, found.final) == (None, False)
    there.store.before = lambda _request, _key: None
    there.look()
    assert list(there.served) == [1]


def test_require_remote_refuses_the_cache(tmp_path: Path) -> None:
    first = Harness(tmp_path)
    publish(first.store, 1, ONE)
    first.look()
    second = Harness(tmp_path, first.store, require_store=True)
    second.store.before = unreachable
    found = second.look()
    assert (second.served, found.final) == ({}, True)


def test_a_version_of_the_cache_that_the_store_has_otherwise_serves_on(tmp_path: Path) -> None:
    first = Harness(tmp_path)
    publish(first.store, 1, ONE)
    first.look()
    second = Harness(tmp_path, first.store)
    second.store.before = unreachable
    second.look()
    second.store.before = lambda _request, _key: None
    publish(second.store, 1, TWO)
    second.look(times=2)
    assert second.content(1) == ONE
    assert second.noted.changes == 1


def test_a_version_of_the_cache_may_have_zeros_before_its_number_in_the_store(
    tmp_path: Path,
) -> None:
    first = Harness(tmp_path)
    for key, data in upload_order(1, ONE):
        first.store.write(key.replace("/1/", "/00000001/"), data)
    first.look()
    first.base.close()
    second = Harness(tmp_path, first.store)
    second.store.before = unreachable
    second.look()
    second.store.before = lambda _request, _key: None
    found = second.look(times=45)
    assert (found.problem, second.noted.changes) == (None, 0)
    assert second.content(1) == ONE
