from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pytest
from fakes import TIMEOUT_S, FakeClock

from ladle.protos.files.versions import LABELS_NAME
from ladle.server.core.errors import Unavailable
from ladle.server.core.sources.file_system import FileSystemSource
from ladle.server.core.sources.source import MonitoredModel
from ladle.server.core.sources.version_policy import Latest, Specific


class Aspirations:
    """Remembers what it was told of each model."""

    def __init__(self) -> None:
        self.last: dict[str, Mapping[int, Path]] = {}
        self.calls = 0
        self.broken: set[int] = set()
        self.retried: list[int] = []
        self.withdrawn: list[str] = []
        self.labels: list[Mapping[str, int]] = []
        self.problems: dict[str, tuple[str, bool]] = {}
        self.over = False

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        self.last[name] = versions
        self.calls += 1

    def withdraw(self, name: str) -> None:
        self.withdrawn.append(name)

    def label(self, name: str, labels: Mapping[str, int], changed_s: float | None = None) -> None:
        self.labels.append(labels)

    def failed(self, name: str) -> Collection[int]:
        return set(self.broken)

    def retry(self, name: str, version: int) -> None:
        self.retried.append(version)

    def report(
        self,
        name: str,
        problem: str | None,
        *,
        final: bool,
        incomplete: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        if problem is None:
            self.problems.pop(name, None)
        else:
            self.problems[name] = (problem, final)

    def source_stopped(self) -> None:
        self.over = True


def needs_file_a(folder: Path) -> str | None:
    return None if (folder / "a").is_file() else "there is no a"


class Gate:
    """Tells whether a version is whole, but hangs under `dead`, as a lost file system does."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.entered = threading.Event()
        self.hung = 0

    def __call__(self, folder: Path) -> str | None:
        if folder.parent.name == "dead":
            self.hung += 1
            self.entered.set()
            assert self._open.wait(TIMEOUT_S)
        return None

    def open(self) -> None:
        self._open.set()


class Harness:
    """A source over one model, stepped by hand; files seem to have changed only just now."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        self.told = Aspirations()
        self.clock = FakeClock()
        self.checked = 0
        self.source = FileSystemSource(
            self.told, poll_wait_s=1, check=self._check, clock=self.clock, wall=lambda: 0.0
        )
        self.source.set_models([MonitoredModel("m", base_path)])

    def _check(self, folder: Path) -> str | None:
        self.checked += 1
        return needs_file_a(folder)

    def put(self, version: int, file: str, text: str = "") -> None:
        folder = self.base_path / str(version)
        folder.mkdir(exist_ok=True)
        (folder / file).write_text(text)

    def step(self) -> Collection[int]:
        """FolderScan, a second after the last time; return the versions that are aspired."""
        self.clock.advance(1)
        self.source.step()
        return list(self.told.last.get("m", {}))


@pytest.fixture
def setting(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def polling(told: Aspirations, poll_wait_s: float, *models: MonitoredModel) -> FileSystemSource:
    source = FileSystemSource(told, poll_wait_s=poll_wait_s)
    source.set_models(models)
    return source


def test_each_poll_states_all_the_versions_that_are_wanted(tmp_path: Path) -> None:
    told = Aspirations()
    source = polling(told, 0, MonitoredModel("m", tmp_path, Latest(2)))
    for name in ("1", "2", "003", "tmp"):
        (tmp_path / name).mkdir()

    source.step()
    assert told.last == {"m": {2: tmp_path / "2", 3: tmp_path / "003"}}

    (tmp_path / "003").rmdir()
    source.step()
    assert told.last == {"m": {1: tmp_path / "1", 2: tmp_path / "2"}}


def test_a_base_path_that_is_gone_says_nothing_and_leaves_the_others_alone(tmp_path: Path) -> None:
    told = Aspirations()
    (tmp_path / "good" / "1").mkdir(parents=True)
    bad, good = tmp_path / "bad", tmp_path / "good"
    source = polling(told, 0, MonitoredModel("bad", bad), MonitoredModel("good", good))

    source.step()

    assert told.last == {"good": {1: good / "1"}}
    assert told.problems == {
        "bad": (f"could not read base path {bad}: No such file or directory", True)
    }


def test_what_has_long_been_there_is_aspired_at_the_first_look(tmp_path: Path) -> None:
    told = Aspirations()
    (tmp_path / "1").mkdir()
    in_an_hour = (tmp_path / "1").stat().st_mtime + 3600
    source = FileSystemSource(told, poll_wait_s=1, wall=lambda: in_an_hour)
    source.set_models([MonitoredModel("m", tmp_path)])

    source.step()

    assert told.last == {"m": {1: tmp_path / "1"}}


def test_a_version_counts_once_it_is_whole_and_nothing_has_changed_for_a_moment(
    setting: Harness,
) -> None:
    setting.put(1, "a")
    setting.step()
    assert setting.step() == [1]

    setting.put(2, "b")
    assert setting.step() == [1]
    assert setting.told.problems["m"][1] is False
    assert setting.step() == [1]
    problem, final = setting.told.problems["m"]
    assert problem == f"version 2 in {setting.base_path / '2'} is not whole: there is no a"
    assert final

    setting.put(2, "a", "half")
    assert setting.step() == [1]
    setting.put(2, "a", "whole now")
    assert setting.step() == [1]
    assert setting.step() == [2]
    assert setting.told.problems == {}


def test_a_file_where_a_version_should_be_is_not_one(setting: Harness) -> None:
    (setting.base_path / "7").write_text("")

    assert setting.step() == []
    assert setting.told.problems["m"][0].endswith("is not whole: it is not a folder")


def test_a_failed_version_is_tried_again_once_its_files_have_changed(setting: Harness) -> None:
    setting.put(1, "a")
    setting.step()
    setting.step()
    setting.told.broken = {1}
    setting.step()
    assert setting.told.retried == []

    checked = setting.checked
    setting.step()
    assert setting.checked == checked, "files that are the same are not read again"

    setting.put(1, "a", "repaired")
    setting.step()
    assert setting.told.retried == [], "it has not come to rest"
    setting.step()
    assert setting.told.retried == [1]
    setting.step()
    assert setting.told.retried == [1], "once for each change"


def test_a_file_that_is_renamed_during_the_look_is_of_a_copy_under_way(tmp_path: Path) -> None:
    """What lacks the same one twice lacks it for good."""
    (tmp_path / "1").mkdir()
    told = Aspirations()
    absent = iter(["a.tmp", "b.tmp", "b.tmp"])

    def check(_: Path) -> str | None:
        if (name := next(absent, None)) is None:
            return None
        raise FileNotFoundError(2, "No such file or directory", name)

    source = FileSystemSource(told, poll_wait_s=1, check=check, wall=lambda: 4e9)
    source.set_models([MonitoredModel("m", tmp_path)])

    finals = []
    for _ in range(3):
        source.step()
        problem, final = told.problems["m"]
        assert "it can't be read: " in problem
        finals.append(final)
    assert finals == [False, False, True]
    source.step()
    assert told.problems == {}
    assert list(told.last["m"]) == [1]


def test_a_version_that_comes_back_has_to_be_whole_again(setting: Harness) -> None:
    setting.put(1, "a")
    setting.step()
    assert setting.step() == [1]
    shutil.rmtree(setting.base_path / "1")
    assert setting.step() == []

    setting.put(1, "b")
    setting.step()
    assert setting.step() == []
    setting.put(1, "a")
    setting.step()
    assert setting.step() == [1]


def test_a_model_left_out_is_withdrawn_and_said_no_more_of(setting: Harness) -> None:
    setting.put(1, "a")
    setting.step()
    setting.source.set_models([])

    assert setting.told.withdrawn == ["m"]
    assert setting.step() == []


def test_another_base_path_that_has_nothing_yet_leaves_what_is_served(
    setting: Harness, tmp_path: Path
) -> None:
    setting.put(1, "a")
    setting.step()
    assert setting.step() == [1]
    (tmp_path / "new").mkdir()

    setting.source.set_models([MonitoredModel("m", tmp_path / "new")])
    assert setting.step() == [1]
    assert setting.told.withdrawn == []


def test_another_policy_counts_from_the_next_look(setting: Harness) -> None:
    for version in (1, 2):
        setting.put(version, "a")
    setting.step()
    assert setting.step() == [2]

    setting.source.set_models(
        [MonitoredModel("m", setting.base_path, Specific(frozenset({1})))],
    )
    setting.step()
    assert setting.step() == [1]


def test_a_rescan_looks_at_once_and_tries_failed_versions_again(setting: Harness) -> None:
    setting.put(1, "a")
    setting.step()
    setting.clock.advance(1)
    setting.told.broken = {1}

    assert setting.source.rescan("m")
    assert not setting.source.rescan("unknown")

    assert list(setting.told.last["m"]) == [1]
    assert setting.told.retried == [1]


def test_polling_goes_on_at_its_interval_until_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    told = Aspirations()
    clock = FakeClock()
    source = FileSystemSource(told, poll_wait_s=5, clock=clock, wall=lambda: 4e9)
    source.set_models([MonitoredModel("m", tmp_path)])
    source.start()
    assert told.calls == 1

    # A look that `set_models` asked for may come in between.
    for _ in range(2):
        before = told.calls
        while told.calls == before:
            clock.wait_until_sleeping(1)
            clock.advance(5)

    assert not told.over
    source.stop()
    assert told.over


@pytest.mark.parametrize(("poll_wait_s", "polls"), [(0, 1), (-1, 0)])
def test_polling_once_or_never(tmp_path: Path, poll_wait_s: float, polls: int) -> None:
    (tmp_path / "1").mkdir()
    told = Aspirations()
    source = polling(told, poll_wait_s, MonitoredModel("m", tmp_path))

    source.start()
    source.stop()

    assert told.calls == polls


def test_nobody_waits_for_what_only_a_rescan_looks_at(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    told = Aspirations()
    source = polling(told, -1, MonitoredModel("m", tmp_path))
    assert told.problems == {
        "m": ("its base path is not scanned before RescanModel asks for it", True)
    }

    assert source.rescan("m")

    assert list(told.last["m"]) == [1]
    assert told.problems == {}


def test_where_polling_is_once_a_model_that_comes_later_is_looked_at_too(tmp_path: Path) -> None:
    """Upstream's reload never ends then (its issue 1519)."""
    (tmp_path / "1").mkdir()
    told = Aspirations()
    clock = FakeClock()
    source = FileSystemSource(told, poll_wait_s=0, clock=clock)
    source.start()

    source.set_models([MonitoredModel("m", tmp_path)])
    source.step(only_new=True)
    source.stop()

    assert told.last == {"m": {1: tmp_path / "1"}}
    assert told.calls == 1


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def gate(pool: ThreadPoolExecutor) -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def test_a_base_path_that_hangs_holds_up_no_other_and_is_looked_at_once(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    models = []
    for name in ("dead", "good"):
        (tmp_path / name / "1").mkdir(parents=True)
        models.append(MonitoredModel(name, tmp_path / name))
    told = Aspirations()
    clock = FakeClock()
    source = FileSystemSource(told, poll_wait_s=1, check=gate, clock=clock, wall=lambda: 4e9)
    source.set_models(models)

    looked = pool.submit(source.step)
    assert gate.entered.wait(TIMEOUT_S)
    clock.wait_until_sleeping(1)
    clock.advance(2)
    looked.result(TIMEOUT_S)
    assert told.last == {"good": {1: tmp_path / "good" / "1"}}
    assert told.problems["dead"] == (
        f"base path {tmp_path / 'dead'} does not answer: a scan of it is still under way",
        False,
    )

    clock.advance(30)
    (tmp_path / "good" / "2").mkdir()
    source.step()
    assert list(told.last["good"]) == [2]
    assert told.problems["dead"][1], "waiting alone won't mend it"
    assert gate.hung == 1

    rescan = pool.submit(source.rescan, "dead")
    clock.wait_until_sleeping(1)
    clock.advance(5)
    with pytest.raises(Unavailable, match=r"model dead: base path .* does not answer"):
        rescan.result(TIMEOUT_S)

    gate.open()
    assert source.rescan("dead")
    assert told.last["dead"] == {1: tmp_path / "dead" / "1"}
    assert told.problems == {}
    source.stop()


def test_a_policy_that_changes_during_a_look_is_looked_at_again_without_polling(
    tmp_path: Path, gate: Gate, pool: ThreadPoolExecutor
) -> None:
    base_path = tmp_path / "dead"
    for version in "12":
        (base_path / version).mkdir(parents=True)
    first_alone = threading.Event()

    class Listening(Aspirations):
        def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
            super().aspire(name, versions)
            if list(versions) == [1]:
                first_alone.set()

    told = Listening()
    clock = FakeClock()
    source = FileSystemSource(told, poll_wait_s=0, check=gate, clock=clock)
    source.set_models([MonitoredModel("m", base_path)])
    started = pool.submit(source.start)
    clock.wait_until_sleeping(1)
    clock.advance(2)
    started.result(TIMEOUT_S)

    source.set_models([MonitoredModel("m", base_path, Specific(frozenset({1})))])
    gate.open()

    assert first_alone.wait(TIMEOUT_S)
    source.stop()


def test_labels_are_told_as_they_lie_beside_the_versions(
    setting: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged file takes no label away; a removed one does."""
    path = setting.base_path / LABELS_NAME
    setting.step()
    path.write_text('{"stable": 1}')
    setting.step()
    path.write_text('{"stable": "1"}')
    setting.step()
    setting.step()
    assert setting.told.labels == [{}, {"stable": 1}]
    assert caplog.text.count("labels can't be read base_path=") == 1
    path.unlink()
    setting.step()
    setting.step()
    assert setting.told.labels == [{}, {"stable": 1}, {}]


def test_versions_with_a_label_beside_them_are_wanted_too(setting: Harness) -> None:
    for version in (1, 2, 3):
        setting.put(version, "a")
    setting.step()
    assert setting.step() == [3]
    path = setting.base_path / LABELS_NAME
    path.write_text('{"stable": 1}')
    setting.step()
    assert setting.step() == [1, 3]
    path.write_text("damaged")
    assert setting.step() == [1, 3]
    path.write_text('{"stable": 2}')
    setting.step()
    assert setting.step() == [2, 3]
    # Labels of the configuration take their place.
    setting.source.set_models([MonitoredModel("m", setting.base_path, keeps_labelled=False)])
    assert setting.step() == [3]
    setting.source.set_models([MonitoredModel("m", setting.base_path)])
    path.unlink()
    setting.step()
    assert setting.step() == [3]
