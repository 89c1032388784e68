"""Stores that throttle, refuse, cut off and lie: nothing wrong is served, and little is asked."""

from __future__ import annotations

from pathlib import Path

from server.core.remote.by_hand import ONE, TWO, Harness, unreachable
from stores import BASE, publish

from ladle.store.errors import Denied, Unreachable


def test_a_store_that_throttles_is_asked_less_and_less(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    there.store.before = unreachable
    before = there.store.count("list")
    for _ in range(3600):
        there.look(every_s=1)
    # Every 15 s these would be 240.
    assert 10 <= there.store.count("list") - before <= 20
    assert list(there.served) == [1]


def test_denied_is_final_and_what_serves_goes_on(tmp_path: Path) -> None:
    def denied(_request: str, _key: str) -> None:
        raise Denied(f"{BASE}: the store refuses access")

    there = Harness(tmp_path)
    there.store.before = denied
    assert there.look().final
    there.store.before = lambda _request, _key: None
    publish(there.store, 1, ONE)
    there.look()
    there.store.before = denied
    there.look(times=3)
    assert list(there.served) == [1]


def test_a_download_that_is_cut_off_is_tried_again_and_goes_on(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)

    def cut_off(request: str, key: str) -> None:
        if request == "get" and key.endswith("variables/v"):
            raise Unreachable(f"{key}: the answer of the store was cut off")

    there.store.before = cut_off
    found = there.look(times=2)
    assert found.problem is not None
    assert "cut off" in found.problem
    assert not found.final
    there.store.before = lambda _request, _key: None
    there.look()
    assert there.content(1) == ONE
    reads = [key for key, *_ in there.store.reads if key.endswith("saved_model.pb")]
    assert len(reads) == 1


def test_a_store_that_lies_about_sizes_is_found_out(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    publish(there.store, 2, TWO)
    there.store.sent = lambda _key, data: data[:-1]
    found = there.look(times=2)
    assert list(there.served) == [1]
    assert found.problem is not None
    assert "bytes" in found.problem
    there.store.sent = lambda _key, data: data
    there.store.listed_size = lambda key, size: size + 1 if key.endswith("/v") else size
    publish(there.store, 2, TWO)
    assert "_ladle_manifest.json expects 27" in str(there.look(times=2).problem)
    assert list(there.served) == [1]


def test_bytes_that_are_not_the_manifests_are_never_served(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.store.sent = lambda key, data: b"X" + data[1:] if key.endswith("/v") else data
    found = there.look(times=3)
    assert there.served == {}
    assert "other bytes than the manifest says" in str(found.problem)
    there.store.sent = lambda _key, data: data
    there.look(times=2)
    assert there.content(1) == ONE


def test_without_room_the_older_version_serves_and_the_problem_says_how_much(
    tmp_path: Path,
) -> None:
    there = Harness(tmp_path, max_bytes=60)
    publish(there.store, 1, ONE)
    there.look()
    publish(there.store, 2, {"saved_model.pb": bytes(100)})
    found = there.look(times=2)
    assert list(there.served) == [1]
    assert "it needs 100 bytes, and --model_cache_bytes=60 leaves" in str(found.problem)


def test_names_that_lead_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    for name in ("../../evil", "a//b", "a/../b", "x" * 300):
        there.store.objects.clear()
        publish(there.store, 1, ONE)
        there.store.write(f"{BASE.path}/2/saved_model.pb", b"graph")
        there.store.write(f"{BASE.path}/2/{name}", b"x")
        found = there.look(times=3)
        assert "names that files can have" in str(found.problem)
        assert list(there.served) == [1]
