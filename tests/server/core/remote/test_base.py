"""A model's base in a store: what must not happen, whatever the store does."""

from __future__ import annotations

from pathlib import Path

import pytest
from server.core.remote.by_hand import ONE, TWO, Harness
from stores import BASE, publish, upload_order

from ladle.protos.files.versions import FOLDER_NAME, HIDDEN_PREFIX, LABELS_NAME
from ladle.server.core.errors import ResourceExhausted
from ladle.server.core.sources.version_policy import All


def test_a_version_with_a_manifest_is_served_at_once(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    first = there.scan()
    assert (first.problem, first.final, first.wanted) == (f"{BASE} is being listed", False, None)
    found = there.look()
    assert found.problem is None
    assert there.content(1) == ONE
    assert there.noted.outcomes == ["downloaded"]
    publish(there.store, 2, TWO)
    there.look()
    assert there.content(2) == TWO
    assert list(there.served) == [2]


def test_idle_looks_cost_one_request_each(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    before = len(there.store.requests)
    there.look(times=10)
    assert len(there.store.requests) == before + 10


@pytest.mark.parametrize("manifest", [True, False])
def test_no_beginning_of_an_upload_is_served(tmp_path: Path, manifest: bool) -> None:
    steps = upload_order(2, TWO)
    if not manifest:
        steps = steps[1:-1]
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    for key, data in steps[:-1]:
        there.store.write(key, data)
        # Others' uploads may rest for as long as a settle time between two files; not for longer.
        there.look(times=1 if not manifest else 3, every_s=29)
        assert list(there.served) == [1]
    there.store.write(*steps[-1])
    there.look(times=3)
    assert there.content(2) == TWO


def test_an_upload_that_ends_early_is_no_model_and_the_older_version_serves(
    tmp_path: Path,
) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.store.write(f"{BASE.path}/2/variables/v", b"two")
    found = there.look(times=4)
    assert list(there.served) == [1]
    assert found.problem is not None
    assert "no saved_model.pb" in found.problem
    there.store.write(f"{BASE.path}/2/saved_model.pb", b"graph 2")
    there.look(times=3)
    assert list(there.served) == [2]


@pytest.mark.parametrize("at", range(12))
def test_no_overwrite_at_any_moment_gives_a_mixed_version(tmp_path: Path, at: int) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    left = at

    def overwrite(_request: str, _key: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            there.store.before = lambda _request, _key: None
            publish(there.store, 1, TWO)

    there.store.before = overwrite
    there.look(times=4)
    assert there.content(1) in (ONE, TWO)


def test_a_served_version_that_is_overwritten_stays_as_it_was(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    publish(there.store, 1, TWO)
    there.look(times=45)
    assert there.content(1) == ONE
    assert there.noted.changes == 1


def test_a_version_that_failed_to_load_is_fetched_again_once_it_is_another(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    before = there.served[1]
    there.failed = {1}
    there.look(times=3)
    assert there.served[1] == before
    publish(there.store, 1, TWO)
    there.look(times=2)
    assert there.content(1) == TWO
    assert there.served[1] != before


def test_an_empty_listing_unloads_nothing(tmp_path: Path) -> None:
    there = Harness(tmp_path, policy=All())
    publish(there.store, 1, ONE)
    publish(there.store, 2, TWO)
    there.look()
    kept = dict(there.store.objects)
    there.store.objects.clear()
    found = there.look(times=5)
    assert sorted(there.served) == [1, 2]
    assert found.problem is not None
    assert "no versions under base path s3://bucket/models/m" in found.problem
    there.store.objects.update(kept)
    assert there.look().problem is None


def test_a_version_that_is_gone_twice_is_unloaded(tmp_path: Path) -> None:
    there = Harness(tmp_path, policy=All())
    publish(there.store, 1, ONE)
    publish(there.store, 2, TWO)
    there.look()
    for key in [key for key in there.store.objects if key.startswith(f"{BASE.path}/2/")]:
        del there.store.objects[key]
    there.look()
    assert sorted(there.served) == [1, 2]
    there.look()
    assert sorted(there.served) == [1]


def test_a_hidden_version_gives_way_once_the_other_is_there(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    publish(there.store, 2, TWO)
    there.look()
    assert list(there.served) == [2]
    there.store.write(f"{BASE.path}/{HIDDEN_PREFIX}2", b"")
    there.look()
    assert there.content(1) == ONE
    there.store.delete(f"{BASE.path}/{HIDDEN_PREFIX}2")
    there.look()
    assert list(there.served) == [2]
    assert there.noted.outcomes == ["downloaded", "downloaded", "cached"]


def test_labelled_versions_stay_beside_the_latest(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    for version in 1, 2, 3:
        publish(there.store, version, ONE)
    there.store.write(f"{BASE.path}/{LABELS_NAME}", b'{"stable": 1}')
    there.look()
    assert sorted(there.served) == [1, 3]
    # Nothing goes before what is to follow it has come.
    there.store.write(f"{BASE.path}/{HIDDEN_PREFIX}3", b"")
    there.clock.advance(400)
    there.scan()
    there.looks.run()
    there.scan()
    assert sorted(there.served) == [1, 3]
    there.fetches.run()
    there.scan()
    assert sorted(there.served) == [1, 2]


def test_labels_are_read_when_they_change(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.look()
    assert there.labels == {}
    there.store.write(f"{BASE.path}/{LABELS_NAME}", b'{"stable": 1}')
    written_s = there.store.now_s
    found = there.look(times=3)
    assert (there.labels, found.labelled_s) == ({"stable": 1}, written_s)
    there.store.write(f"{BASE.path}/{LABELS_NAME}", b'{"stable": 1}')  # the same, later
    assert there.look().labelled_s == written_s + 3 * 400.0
    assert there.store.requests.count(("get", f"{BASE.path}/{LABELS_NAME}")) == 2
    there.store.write(f"{BASE.path}/{LABELS_NAME}", b"nonsense")
    there.look()
    assert there.labels == {"stable": 1}


class TestBeside:
    """What lies beside the versions, and says how they are served."""

    def harness(self, tmp_path: Path) -> Harness:
        there = Harness(tmp_path)
        publish(there.store, 1, ONE)
        self.write(there, "config.pbtxt", b"labels.txt warmup/x")
        self.write(there, "labels.txt", b"ant")
        self.write(there, "warmup/x", b"12")
        there.look()
        return there

    def write(self, there: Harness, name: str, data: bytes) -> None:
        there.store.write(f"{BASE.path}/{name}", data)

    def kept(self, there: Harness) -> dict[str, bytes]:
        folder = there.served[1].parent
        names = ("config.pbtxt", "labels.txt", "warmup/x")
        return {n: (folder / n).read_bytes() for n in names if (folder / n).is_file()}

    def test_it_is_there_before_the_version_is(self, tmp_path: Path) -> None:
        there = self.harness(tmp_path)
        assert self.kept(there) == {
            "config.pbtxt": b"labels.txt warmup/x",
            "labels.txt": b"ant",
            "warmup/x": b"12",
        }
        assert (there.served[1].parent / FOLDER_NAME).read_text() == BASE.name

    def test_it_is_read_again_when_it_changes_and_not_before(self, tmp_path: Path) -> None:
        there = self.harness(tmp_path)
        there.look(times=3)
        config = ("get", f"{BASE.path}/config.pbtxt")
        assert there.store.requests.count(config) == 1
        self.write(there, "labels.txt", b"bee")
        there.look()
        assert self.kept(there)["labels.txt"] == b"bee"
        self.write(there, "config.pbtxt", b"other.txt")
        there.look()
        assert self.kept(there)["config.pbtxt"] == b"other.txt"
        self.write(there, "other.txt", b"cat")  # it was missing
        there.look()
        assert (there.served[1].parent / "other.txt").read_bytes() == b"cat"

    def test_what_goes_in_the_store_goes_here(self, tmp_path: Path) -> None:
        there = self.harness(tmp_path)
        del there.store.objects[f"{BASE.path}/config.pbtxt"]
        there.look()
        assert "config.pbtxt" not in self.kept(there)
        assert sorted(there.served) == [1]

    def test_names_that_lead_out_of_the_folder_are_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        there = Harness(tmp_path)
        publish(there.store, 1, ONE)
        self.write(there, "config.pbtxt", b"../evil")
        there.store.write(f"{BASE.path}/../evil", b"evil")
        there.look()
        assert self.kept(there) == {}
        assert "expected a file in the model's own folder" in caplog.text

    def test_it_is_no_version_that_makes_room_for_others(self, tmp_path: Path) -> None:
        there = self.harness(tmp_path)
        folder = there.served[1].parent
        with pytest.raises(ResourceExhausted):
            there.cache.reserve(folder / "2-x", 1 << 40)
        assert len(self.kept(there)) == 3
