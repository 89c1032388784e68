from __future__ import annotations

import errno
import json
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ladle.export import PublishError
from ladle.export.publishing.publish import (
    STAGING_PREFIX,
    STALE_AFTER_S,
    Published,
    prepare_base_path,
    publish,
    staging_folder,
)

FAILING_PUBLISHER = Path(__file__).with_name("failing_publisher.py")


def publish_text(base_path: Path, text: str = "model") -> Published:
    with staging_folder(base_path) as folder:
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text(text)
        return publish(folder)


def children(base_path: Path) -> list[str]:
    return sorted(path.name for path in base_path.iterdir())


def test_the_first_version_of_a_new_base_path_is_1(tmp_path: Path) -> None:
    base_path = tmp_path / "models" / "digits"
    assert publish_text(base_path) == Published(version=1, path=base_path / "1")
    assert (base_path / "1" / "variables" / "data").read_text() == "model"
    assert children(base_path) == ["1"]


@pytest.mark.parametrize(
    ("present", "following"),
    [(["1", "2"], 3), (["00000123"], 124), (["7", "latest", "10.tmp"], 8), (["0"], 1)],
)
def test_the_next_version_is_the_highest_plus_one(
    tmp_path: Path, present: list[str], following: int
) -> None:
    for name in present:
        (tmp_path / name).mkdir()
    assert publish_text(tmp_path).version == following


def test_a_given_version_is_published_and_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "007").mkdir()
    for text, version in (("new", 9), ("lower", 3)):
        with staging_folder(tmp_path) as folder:
            (folder / "model").write_text(text)
            assert publish(folder, version).path == tmp_path / str(version)
    for version in (3, 7):
        with staging_folder(tmp_path) as folder:
            (folder / "model").write_text("other")
            with pytest.raises(PublishError, match=f"version {version} is there already"):
                publish(folder, version)
    assert (tmp_path / "3" / "model").read_text() == "lower"
    assert children(tmp_path) == ["007", "3", "9"]


def test_a_file_with_a_number_for_its_name_takes_that_number(tmp_path: Path) -> None:
    (tmp_path / "3").write_text("not a folder")
    assert publish_text(tmp_path).version == 4
    assert (tmp_path / "3").read_text() == "not a folder"


@pytest.mark.parametrize("taken_by", ["folder", "file"])
def test_a_number_that_another_publisher_took_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken_by: str
) -> None:
    """The other's version appears after this publisher has looked at the numbers."""
    if taken_by == "folder":
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "model").write_text("theirs")
    else:
        (tmp_path / "1").write_text("theirs")
    numbers = iter([1, 2])
    monkeypatch.setattr("ladle.export.publishing.publish.next_version", lambda names: next(numbers))
    assert publish_text(tmp_path).version == 2
    theirs = tmp_path / "1" / "model" if taken_by == "folder" else tmp_path / "1"
    assert theirs.read_text() == "theirs"


def test_publishers_in_many_threads_each_get_a_number(tmp_path: Path) -> None:
    publishers, rounds = 8, 5
    start = Barrier(publishers)

    def publish_all(publisher: int) -> list[tuple[int, str]]:
        start.wait()
        texts = [f"{publisher}/{number}" for number in range(rounds)]
        return [(publish_text(tmp_path, text).version, text) for text in texts]

    with ThreadPoolExecutor(publishers) as pool:
        published = dict(chain.from_iterable(pool.map(publish_all, range(publishers))))
    assert sorted(published) == list(range(1, publishers * rounds + 1))
    for version, text in published.items():
        assert (tmp_path / str(version) / "variables" / "data").read_text() == text


def test_publishers_in_two_processes_each_get_a_number(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ladle.export.publishing.publish import *\n"
        "for _ in range(20):\n"
        "    with staging_folder(Path(sys.argv[1])) as folder:\n"
        "        (folder / 'model').write_text('model')\n"
        "        publish(folder)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(map(int, children(tmp_path))) == list(range(1, 41))


def failures(root: Path, failure: str, *version: str) -> list[dict[str, Any]]:
    """Meet `failure` at every step in turn; see failing_publisher.py."""
    command = [sys.executable, str(FAILING_PUBLISHER), str(root), failure, *version]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    steps = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(steps) > 15
    assert steps[-1] == {"step": len(steps), "outcome": "published", "reached": False}
    return steps


@pytest.mark.parametrize("given", [(), ("2",)])
@pytest.mark.parametrize("failure", ["kill", "no-space", "interrupt"])
def test_a_failure_at_any_step_leaves_a_whole_version_or_none(
    tmp_path: Path, failure: str, given: tuple[str, ...]
) -> None:
    files = ["saved_model.pb", "variables", "variables/data"]
    for step in failures(tmp_path, failure, *given):
        base_path = tmp_path / str(step["step"]) / "model"
        numbered = [path for path in base_path.iterdir() if path.name.isdigit()]
        assert base_path / "1" in numbered
        for version in numbered:
            found = sorted(str(path.relative_to(version)) for path in version.rglob("*"))
            assert found == files, step


@pytest.mark.parametrize(
    ("failure", "outcome"), [("no-space", "PublishError"), ("interrupt", "KeyboardInterrupt")]
)
def test_a_publisher_that_fails_tidies_up(tmp_path: Path, failure: str, outcome: str) -> None:
    steps = failures(tmp_path, failure)
    failed = [step for step in steps if step["outcome"].startswith(outcome)]
    assert len(failed) > 10
    for step in steps:
        left = children(tmp_path / str(step["step"]) / "model")
        if step["outcome"] == "published":
            assert left == ["1", "2"], step
        elif failure == "no-space":
            assert "No space left on device" in step["outcome"]
            assert left == ["1"], step
        else:
            assert left in (["1"], ["1", "2"]), step


def test_a_killed_publisher_does_not_stop_the_next(tmp_path: Path) -> None:
    for step in failures(tmp_path, "kill"):
        base_path = tmp_path / str(step["step"]) / "model"
        highest = max(int(name) for name in children(base_path) if name.isdigit())
        assert publish_text(base_path).version == highest + 1


def test_what_a_killed_publisher_left_goes_after_a_day(tmp_path: Path) -> None:
    for name, age_s in (("old", STALE_AFTER_S + 60), ("new", STALE_AFTER_S - 600)):
        folder = tmp_path / f"{STAGING_PREFIX}{name}"
        folder.mkdir()
        (folder / "half").write_text("written")
        then = folder.stat().st_mtime - age_s
        os.utime(folder, (then, then))
    publish_text(tmp_path)
    assert children(tmp_path) == [f"{STAGING_PREFIX}new", "1"]


def test_a_version_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    """Not only by its owner, as tempfile makes folders: the server may be another user."""
    umask = os.umask(0o022)
    try:
        path = publish_text(tmp_path).path
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_a_folder_that_cannot_be_synced_is_published_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems that know no fsync of a folder."""
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert publish_text(tmp_path).version == 1


def test_a_version_in_place_is_published_even_if_its_base_path_cannot_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were it called a failure, a second try would publish it twice."""
    fsync = os.fsync

    def refuse_after_the_rename(descriptor: int) -> None:
        if (tmp_path / "1").exists():
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_after_the_rename)
    with caplog.at_level(logging.WARNING):
        assert publish_text(tmp_path).version == 1
    assert "not synced" in caplog.text


def test_every_file_is_on_disk_before_the_version_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        if not (tmp_path / "1").exists():
            synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    path = publish_text(tmp_path).path
    assert {path.stat().st_ino, *(child.stat().st_ino for child in path.rglob("*"))} == set(synced)


def test_nothing_is_published_where_the_block_raises(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with staging_folder(tmp_path) as folder:
            (folder / "half").write_text("written")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert children(tmp_path) == []


def test_an_empty_version_is_refused(tmp_path: Path) -> None:
    with staging_folder(tmp_path) as folder, pytest.raises(PublishError, match="nothing to pub"):
        publish(folder)
    assert children(tmp_path) == []


def test_there_is_no_version_after_the_last_that_64_bits_hold(tmp_path: Path) -> None:
    (tmp_path / str(2**63 - 1)).mkdir()
    with pytest.raises(PublishError, match="no version number is left"):
        publish_text(tmp_path)


def test_a_base_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match="cannot publish: Not a directory"):
        prepare_base_path(tmp_path / "file" / "model")


def test_a_base_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match="cannot publish: File exists"):
        prepare_base_path(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_base_path_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PublishError, match="no permission to write"):
        prepare_base_path(tmp_path)


def test_a_base_path_that_is_itself_a_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(PublishError, match=r"is a version itself, as it holds saved_model\.pb"):
        prepare_base_path(tmp_path)
