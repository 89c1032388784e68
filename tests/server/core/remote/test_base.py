"""A model's base in a store: what must not happen, whatever the store does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeClock
from stores import BASE, FakeStore, publish, upload_order

from ladle.protos.files.versions import FOLDER_NAME, HIDDEN_PREFIX, LABELS_NAME
from ladle.server.core.errors import ResourceExhausted
from ladle.server.core.remote.base import RemoteBase
from ladle.server.core.remote.beside import Beside
from ladle.server.core.remote.cache import Cache
from ladle.server.core.remote.decisions import Schedule
from ladle.server.core.remote.options import RemoteOptions
from ladle.server.core.remote.workers import Workers
from ladle.server.core.sources.base_path import ScanResult
from ladle.server.core.sources.version_policy import All, Latest, Specific, VersionPolicy
from ladle.store.errors import Denied, Unreachable

ONE: Mapping[str, bytes] = {"variables/v": b"one" * 9, "saved_model.pb": b"graph 1"}
TWO: Mapping[str, bytes] = {"variables/v": b"two" * 9, "saved_model.pb": b"graph 2"}


class ByHand(Workers):
    """Jobs wait until the test runs them."""

    def __init__(self) -> None:
        super().__init__(1, "by hand")
        self.jobs: deque[Callable[[], None]] = deque()
        self.has_threads = True

    def submit(self, key: str, job: Callable[[], None]) -> bool:
        if self.has_threads:
            self.jobs.append(job)
        return self.has_threads

    def run(self) -> bool:
        ran = bool(self.jobs)
        while self.jobs:
            self.jobs.popleft()()
        return ran


class Noted:
    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.nbytes = 0
        self.changes = 0
        self.failures = 0

    def fetched(self, model: str, nbytes: int, took_s: float, outcome: str) -> None:
        self.outcomes.append(outcome)
        self.nbytes += nbytes

    def look_failed(self, model: str) -> None:
        self.failures += 1

    def version_changed(self, model: str) -> None:
        self.changes += 1


class Harness:
    """A server's view of one base; time passes by `look`."""

    def __init__(
        self,
        root: Path,
        store: FakeStore | None = None,
        *,
        policy: VersionPolicy | None = None,
        once: bool = False,
        require_store: bool = False,
        max_bytes: int = 1 << 30,
    ) -> None:
        self.store = store or FakeStore()
        self.clock = FakeClock()
        self.noted = Noted()
        self.policy: VersionPolicy = policy or Latest()
        self.looks, self.fetches = ByHand(), ByHand()
        self.cache = Cache(root, max_bytes)
        self.cache.start()
        self.failed: set[int] = set()
        self.served: Mapping[int, Path] = {}
        self.labels: Mapping[str, int] | None = None
        options = RemoteOptions(
            cache=self.cache,
            open_store=lambda _: self.store,
            beside=Beside(config="config.pbtxt", named=lambda text, _: text.decode().split()),
            check=lambda f: None if (f / "saved_model.pb").is_file() else "no saved_model.pb",
            schedule=Schedule(wait_s=15, settle_s=30),
            once=once,
            require_store=require_store,
            threads=2,
            looks=self.looks,
            fetches=self.fetches,
            notes=self.noted,
            clock=self.clock,
            wall=lambda: self.store.now_s,
            chance=lambda: 0.5,
        )
        self.base = RemoteBase(BASE, "m", options, lambda: None)

    def scan(self) -> ScanResult:
        found = self.base.scan(self.policy, self.failed, keeps_labelled=True)
        if found.wanted is not None:
            self.served = found.wanted
        if found.labels is not None:
            self.labels = found.labels
        return found

    def look(self, times: int = 1, every_s: float = 400.0) -> ScanResult:
        """Let a poll come, its look and its downloads end, and return what is known then."""
        for _ in range(times):
            self.clock.advance(every_s)
            self.store.now_s += every_s
            found = self.scan()
            for _ in range(20):
                if not self.looks.run() | self.fetches.run():
                    break
                found = self.scan()
        return found

    def content(self, version: int) -> dict[str, bytes]:
        folder = self.served[version]
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".ladle")
        }


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


def unreachable(request: str, key: str) -> None:
    raise Unreachable(f"{BASE}: the store can't be reached: connection refused")


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


def test_workers_of_a_store_that_stalls_hold_up_no_other(tmp_path: Path) -> None:
    workers = Workers(2, "test")
    gate, ran = threading.Event(), threading.Event()
    for _ in range(5):
        workers.submit("slow", gate.wait)  # type: ignore[arg-type]
    workers.submit("fast", ran.set)
    assert ran.wait(30)
    gate.set()
    workers.close()
    workers.submit("fast", pytest.fail)


def test_a_job_never_runs_in_the_thread_of_who_submits_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(2, "test")
    gate, ran = threading.Event(), threading.Event()
    workers.submit("s3://a", gate.wait)  # type: ignore[arg-type]

    def no_room(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_room)
        assert not workers.submit("s3://b", pytest.fail)
        assert workers.submit("s3://a", ran.set)  # the thread that runs takes it next
    gate.set()
    assert ran.wait(TIMEOUT_S)
    assert workers.submit("s3://b", lambda: None)
    workers.close()


def test_without_a_thread_a_look_and_a_fetch_come_later(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.looks.has_threads = False
    assert "no thread can be had" in str(there.look().problem)
    there.looks.has_threads, there.fetches.has_threads = True, False
    assert "no thread can be had" in there.look().incomplete[1]
    there.fetches.has_threads = True
    assert there.look().problem is None
    assert there.content(1) == ONE


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
