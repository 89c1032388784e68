"""The cache on the disk: whole versions only, shared with others, and never beyond its bound."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes import TIMEOUT_S
from stores import BASE, FakeStore

from ladle.server.core.errors import ResourceExhausted
from ladle.server.core.remote.cache import Cache, Known
from ladle.server.core.remote.download import CancelledDownload, download
from ladle.server.core.remote.fetching import BeingFetched, Fetched, NotWhole, Wanted, fetch
from ladle.server.core.remote.record import read_record
from ladle.server.core.servable_id import ServableId
from ladle.store.errors import Changed, StoreError, Unreachable
from ladle.store.layout import RECORD_NAME, version_listing

FILES: Mapping[str, bytes] = {
    "assets/empty": b"",
    "saved_model.pb": bytes(range(250)),
    "variables/v": bytes(1000),
}
SIZE = 1250


@pytest.fixture
def store() -> FakeStore:
    made = FakeStore()
    for path, data in FILES.items():
        made.write(f"{BASE.path}/1/{path}", data)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "cache", 10_000)
    made.start()
    return made


def wanted(store: FakeStore, version: int = 1) -> Wanted:
    prefix = f"{BASE.path}/{version}"
    listing = version_listing(prefix, store.list_all(prefix, most=100))
    return Wanted(BASE, version, str(version), listing.files, listing.fingerprint)


def fetched(
    store: FakeStore, cache: Cache, what: Wanted | None = None, threads: int = 2
) -> Fetched:
    return fetch(
        what or wanted(store), cache, store, lambda _: None, threads=threads, part_bytes=100
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME
    }


def test_a_version_comes_whole_and_only_once(store: FakeStore, cache: Cache) -> None:
    lease, nbytes = fetched(store, cache)
    assert content(lease.path) == FILES
    assert nbytes == SIZE
    again, nbytes = fetched(store, cache)
    assert (again.path, nbytes) == (lease.path, 0)
    assert cache.used_bytes() == SIZE


def test_what_is_on_its_way_is_no_version(store: FakeStore, cache: Cache) -> None:
    path = cache.path(BASE, 1, wanted(store).fingerprint)
    seen: list[bool] = []

    def look(_request: str, _key: str) -> None:
        seen.append(path.exists())

    store.before = look
    fetched(store, cache)
    assert seen
    assert not any(seen)


@pytest.mark.parametrize("at", range(0, 13, 3))
def test_a_fetch_that_was_cut_off_goes_on(store: FakeStore, cache: Cache, at: int) -> None:
    what = wanted(store)
    left = at

    def cut_off(_request: str, _key: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Unreachable("cut off")

    store.before = cut_off
    with pytest.raises(StoreError):
        fetched(store, cache, what, threads=1)
    store.before = lambda _request, _key: None
    store.reads.clear()
    lease, nbytes = fetched(store, cache, what, threads=1)
    assert content(lease.path) == FILES
    # Whole files are kept; a part of one is where it was made safe, which takes 128 MiB.
    assert nbytes == (SIZE if at < 3 else 1000)


def test_a_large_file_goes_on_in_its_middle(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ladle.server.core.remote.download.MARK_BYTES", 200)
    files = [file for file in wanted(store).files if file.path == "variables/v"]
    folder = tmp_path / "folder"
    folder.mkdir()

    def cut_off(_request: str, _key: str) -> None:
        if len(store.reads) == 5:
            raise Unreachable("cut off")

    def get() -> int:
        prefix = f"{BASE.path}/1"
        return download(store, prefix, files, folder, threads=1, part_bytes=100)

    store.before = cut_off
    with pytest.raises(Unreachable):
        get()
    # What was written after the last mark is not trusted.
    with (folder / "variables" / "v").open("ab") as file:
        file.write(b"garbage")
    store.before = lambda _request, _key: None
    assert get() == 600
    assert (folder / "variables" / "v").read_bytes() == FILES["variables/v"]
    assert read_record(folder)["variables/v"].size == 1000
    (folder / "variables" / "v").write_bytes(b"x" * 1000)
    assert get() == 1000


def test_a_file_with_a_flipped_bit_is_fetched_again_and_no_other(
    store: FakeStore, cache: Cache
) -> None:
    lease, _ = fetched(store, cache)
    lease.release()
    damaged = lease.path / "saved_model.pb"
    data = bytearray(damaged.read_bytes())
    data[17] ^= 4
    damaged.write_bytes(data)
    again, nbytes = fetched(store, cache)
    assert content(again.path) == FILES
    assert nbytes == 250


@pytest.mark.parametrize("lost", ["variables/v", RECORD_NAME])
def test_what_a_power_cut_took_is_fetched_again(store: FakeStore, cache: Cache, lost: str) -> None:
    what = wanted(store)
    lease, _ = fetched(store, cache, what)
    (lease.path / lost).write_bytes(b"")  # as a disk has it that was not written
    lease.release()
    lease, nbytes = fetched(store, cache, what)
    assert content(lease.path) == FILES
    assert nbytes == (1000 if lost == "variables/v" else SIZE)


def test_nobody_waits_for_a_disk_that_is_slow_to_write(
    store: FakeStore, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, is_written = threading.Event(), threading.Event()

    def wait(_descriptor: int) -> None:
        synced.set()
        assert is_written.wait(TIMEOUT_S)

    monkeypatch.setattr("os.fsync", wait)
    lease, _ = fetched(store, cache, wanted(store))
    assert content(lease.path) == FILES
    assert synced.wait(TIMEOUT_S)  # but it is asked to
    is_written.set()


def test_an_object_that_is_replaced_meanwhile_ends_the_fetch(
    store: FakeStore, cache: Cache
) -> None:
    what = wanted(store)
    store.write(f"{BASE.path}/1/variables/v", b"1" * 1000)
    with pytest.raises(Changed):
        fetched(store, cache, what)
    assert not cache.path(BASE, 1, what.fingerprint).exists()


def test_only_a_few_parts_are_in_memory_while_the_disk_is_slow(
    store: FakeStore, tmp_path: Path
) -> None:
    asked = most = written = 0
    lock = threading.Lock()

    def before(_request: str, _key: str) -> None:
        nonlocal asked
        with lock:
            asked += 1

    def is_cancelled() -> bool:  # once before each part is written
        nonlocal most, written
        most = max(most, asked - written)
        written += 1
        return False

    files = wanted(store).files
    store.before = before
    download(
        store,
        f"{BASE.path}/1",
        files,
        tmp_path,
        threads=2,
        is_cancelled=is_cancelled,
        part_bytes=10,
    )
    assert written == 125
    assert most <= 5


def test_a_fetch_that_nobody_wants_ends(store: FakeStore, cache: Cache) -> None:
    asked = iter([False, False, True])
    with pytest.raises(CancelledDownload):
        fetch(
            wanted(store),
            cache,
            store,
            lambda _: None,
            threads=1,
            is_cancelled=lambda: next(asked),
            part_bytes=100,
        )


def test_what_is_no_model_does_not_become_a_version(store: FakeStore, cache: Cache) -> None:
    what = wanted(store)
    with pytest.raises(NotWhole, match="no graph"):
        fetch(what, cache, store, lambda _: "no graph", threads=1)
    assert not cache.path(BASE, 1, what.fingerprint).exists()


def test_two_servers_share_a_cache(store: FakeStore, cache: Cache) -> None:
    other = Cache(cache.root, cache.max_bytes)
    other.start()
    what = wanted(store)
    refused: list[type[Exception]] = []

    def meanwhile(_key: str, data: bytes) -> bytes:
        if not refused:
            try:
                fetched(store, other, what)
            except BeingFetched as error:
                refused.append(type(error))
        return data

    store.sent = meanwhile
    lease, _ = fetched(store, cache, what)
    assert set(refused) == {BeingFetched}
    store.sent = lambda _key, data: data
    theirs, nbytes = fetched(store, other, what)
    assert nbytes == 0
    # Each holds it by itself.
    lease.release()
    assert not other.remove(theirs.path)
    theirs.release()
    assert other.remove(theirs.path)


def test_room_is_made_of_what_nobody_needs_the_oldest_first(
    store: FakeStore, tmp_path: Path
) -> None:
    for version in 2, 3, 4:
        for path, data in FILES.items():
            store.write(f"{BASE.path}/{version}/{path}", data)
    cache = Cache(tmp_path / "cache", 3 * SIZE + 100)
    cache.start()
    leases = [fetched(store, cache, wanted(store, version)).lease for version in (1, 2, 3)]
    with pytest.raises(ResourceExhausted, match=r"it needs 1250 bytes, and --model_cache_bytes"):
        fetched(store, cache, wanted(store, 4))
    for lease in leases[1:]:
        lease.release()
    # Version 2 was used last: a load touches it.
    load = cache.holding(lambda _id, path: path)
    assert load(ServableId("m", 2), leases[1].path) == leases[1].path

    os.utime(leases[2].path, (1, 1))
    fetched(store, cache, wanted(store, 4))
    assert [lease.path.exists() for lease in leases] == [True, True, False]
    assert cache.used_bytes() <= cache.max_bytes


def test_nobody_removes_what_is_being_loaded(store: FakeStore, cache: Cache) -> None:
    lease, _ = fetched(store, cache)
    lease.release()
    load = cache.holding(lambda _id, path: cache.remove(path))
    assert load(ServableId("m", 1), lease.path) is False
    assert lease.path.exists()


def test_listings_are_kept_for_their_url_alone(cache: Cache) -> None:
    known = Known({3: "f" * 16}, {"stable": 3})
    cache.remember(BASE, known)
    assert cache.recall(BASE) == known
    assert cache.recall(BASE.parent) is None
    next(cache.root.rglob("listing.json")).write_text("[1, 2")
    assert cache.recall(BASE) is None


def test_a_start_removes_what_was_half_removed(cache: Cache) -> None:
    (cache.root / "trash-1" / "x").mkdir(parents=True)
    cache.start()
    assert not (cache.root / "trash-1").exists()


def test_without_a_bound_half_of_the_free_space_may_be_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.start()
    assert cache.max_bytes > 0


def test_a_cache_that_was_copied_into_a_store_is_a_version_like_others(
    store: FakeStore, cache: Cache
) -> None:
    store.write(f"{BASE.path}/1/{RECORD_NAME}", b'{"files": []}')
    first = fetched(store, cache)
    assert content(first.lease.path) == dict(FILES)
    assert fetched(store, cache).downloaded_bytes == 0


@pytest.mark.parametrize("room", [0, 1, 2])
def test_where_the_system_has_no_room_for_threads_those_that_run_fetch_all(
    store: FakeStore, cache: Cache, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if len(started) == room:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    if room:
        assert content(fetched(store, cache, threads=4).lease.path) == dict(FILES)
    else:
        with pytest.raises(RuntimeError):
            fetched(store, cache, threads=4)
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()
