from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes import FakeClock

from ladle.server.core.source import FileSystemSource, MonitoredModel
from ladle.server.core.versions import Latest


class Aspirations:
    """Remembers what it was told of each model."""

    def __init__(self) -> None:
        self.last: dict[str, Mapping[int, Path]] = {}
        self.calls = 0

    def __call__(self, name: str, versions: Mapping[int, Path]) -> None:
        self.last[name] = versions
        self.calls += 1


def test_each_poll_states_all_the_versions_that_are_wanted(tmp_path: Path) -> None:
    aspirations = Aspirations()
    source = FileSystemSource(
        [MonitoredModel("m", tmp_path, Latest(2))], aspirations, poll_wait_s=0
    )
    for name in ("1", "2", "003", "tmp"):
        (tmp_path / name).mkdir()

    source.step()
    assert aspirations.last == {"m": {2: tmp_path / "2", 3: tmp_path / "003"}}

    (tmp_path / "003").rmdir()
    source.step()
    assert aspirations.last == {"m": {1: tmp_path / "1", 2: tmp_path / "2"}}


def test_a_base_path_that_is_gone_says_nothing_and_leaves_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    aspirations = Aspirations()
    (tmp_path / "good" / "1").mkdir(parents=True)
    source = FileSystemSource(
        [MonitoredModel("bad", tmp_path / "bad"), MonitoredModel("good", tmp_path / "good")],
        aspirations,
        poll_wait_s=0,
    )

    with caplog.at_level(logging.WARNING):
        source.step()
        source.step()

    assert aspirations.last == {"good": {1: tmp_path / "good" / "1"}}
    assert len(caplog.records) == 1, "the log tells of a problem once, not at every poll"


def test_polling_goes_on_at_its_interval_until_it_is_stopped(tmp_path: Path) -> None:
    aspirations = Aspirations()
    clock = FakeClock()
    source = FileSystemSource(
        [MonitoredModel("m", tmp_path)], aspirations, poll_wait_s=5, clock=clock
    )
    source.start()
    clock.wait_until_sleeping(1)
    assert aspirations.calls == 1

    clock.advance(5)
    clock.wait_until_sleeping(1)
    # Asleep again: the second poll is over, or the clock woke the thread for nothing.
    while aspirations.calls < 2:
        clock.advance(5)
        clock.wait_until_sleeping(1)

    source.stop()


@pytest.mark.parametrize(("poll_wait_s", "polls"), [(0, 1), (-1, 0)])
def test_polling_once_or_never(tmp_path: Path, poll_wait_s: float, polls: int) -> None:
    aspirations = Aspirations()
    source = FileSystemSource([MonitoredModel("m", tmp_path)], aspirations, poll_wait_s=poll_wait_s)

    source.start()
    source.stop()

    assert aspirations.calls == polls
