"""Which versions of a store are fetched, and when that is given up."""

from __future__ import annotations

from pathlib import Path

from server.core.remote.by_hand import ONE, TWO, Harness
from stores import BASE, publish, upload_order

from ladle.server.core.sources.version_policy import Specific, VersionPolicy


def test_where_versions_are_looked_for_once_what_is_there_counts(tmp_path: Path) -> None:
    there = Harness(tmp_path, once=True)
    for key, data in upload_order(1, ONE)[1:-1]:
        there.store.write(key, data)
    there.look()
    assert there.content(1) == ONE
    before = len(there.store.requests)
    there.look(times=5)
    assert len(there.store.requests) == before


def test_only_the_wanted_versions_are_fetched(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    for version in 1, 2, 3:
        publish(there.store, version, ONE)
    there.look()
    assert {key.split("/")[2] for key, *_ in there.store.reads} == {"3"}
    there.policy = Specific(frozenset({1, 3}))
    there.scan()
    there.look(every_s=0)
    assert sorted(there.served) == [1, 3]


def test_a_version_that_nobody_wants_any_more_is_given_up(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    publish(there.store, 2, TWO)
    there.clock.advance(400)
    there.scan()
    there.looks.run()
    there.policy = Specific(frozenset({1}))
    there.scan()
    there.looks.run()
    there.fetches.run()
    there.scan()
    assert list(there.served) == [1]
    assert not any(key.startswith(f"{BASE.path}/2/v") for key, *_ in there.store.reads)


def test_rescan_asks_now(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    publish(there.store, 2, TWO)
    there.base.refresh()
    assert not there.looks.jobs
    there.fetches.run()
    there.scan()
    assert list(there.served) == [2]


def test_a_version_that_is_wanted_again_while_it_is_given_up_comes(tmp_path: Path) -> None:
    there = Harness(tmp_path, policy=Specific(frozenset({2})), once=True)
    publish(there.store, 1, ONE)
    publish(there.store, 2, TWO)

    def look_with(policy: VersionPolicy) -> None:
        there.policy = policy
        there.scan()
        there.looks.run()

    look_with(there.policy)  # its download is to begin
    look_with(Specific(frozenset({1})))
    look_with(Specific(frozenset({2})))
    there.fetches.run()
    there.scan()
    assert there.content(2) == TWO
