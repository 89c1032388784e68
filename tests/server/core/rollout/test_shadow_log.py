"""What a shadow answered otherwise, in a file: bounded, readable, and never in the way."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.server.core.errors import Code
from ladle.server.core.rollout import shadow_log
from ladle.server.core.rollout.agreement import Comparison
from ladle.server.core.rollout.shadow_log import ShadowLog, example

BASE = Comparison("m", 1, 2, Code.OK, 0.01, rows=3, off_rows=1, request_id="r-1", row=2)


class Harness:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_s = 0.0
        self.log = ShadowLog(str(path), lambda: self.now_s, lambda: 1_800_000_000.0)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def there(tmp_path: Path) -> Harness:
    return Harness(tmp_path / "log")


def test_a_line_has_both_answers(there: Harness) -> None:
    there.log.write(BASE._replace(answers={"y": ([0.5], [0.25])}))
    assert there.lines() == [
        {
            "time": "2027-01-15T08:00:00.000+00:00",
            "model": "m",
            "stable": 1,
            "shadow": 2,
            "request_id": "r-1",
            "row": 2,
            "outputs": {"y": {"stable": [0.5], "shadow": [0.25]}},
        }
    ]
    assert there.path.stat().st_mode & 0o777 == 0o600


def test_a_failure_is_a_line_and_what_agrees_is_none(there: Harness) -> None:
    there.log.write(BASE._replace(row=None))
    assert not there.path.exists()
    there.log.write(BASE._replace(row=None, code=Code.INTERNAL, error="broken" * 100))
    (line,) = there.lines()
    assert (line["code"], len(line["error"]), line["outputs"]) == ("INTERNAL", 200, {})


def test_there_is_one_line_a_second_at_most(there: Harness) -> None:
    for tenth in range(21):
        there.now_s = tenth / 10
        there.log.write(BASE)
    assert len(there.lines()) == 3


def test_a_file_is_bounded(
    there: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shadow_log, "MAX_BYTES", 500)
    for second in range(20):
        there.now_s = float(second)
        there.log.write(BASE)
    assert there.path.stat().st_size <= 500
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    there.path.unlink()
    there.now_s = 100.0
    there.log.write(BASE)
    assert len(there.lines()) == 1


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_can_not_be_written_is_said_once_and_stops_nothing(
    there: Harness, caplog: pytest.LogCaptureFixture, make: Any
) -> None:
    make(there.path)
    for second in range(3):
        there.now_s = float(second)
        there.log.write(BASE)
    (record,) = caplog.records
    assert str(there.path) in record.getMessage()


def test_rows_are_what_json_has_and_long_ones_are_shortened() -> None:
    mine: dict[str, NDArray[Any]] = {
        "scores": np.array([[0.5, np.nan], [1.0, np.inf]], np.float32),
        "name": np.array([b"cat", b"\xff" * 500], object),
        "ids": np.arange(200).reshape(2, 100),
        "flag": np.array([True, False]),
        "one": np.array(3.0),
    }
    theirs: dict[str, NDArray[Any]] = {"scores": np.zeros((1, 2), np.float32)}
    found = example(mine, theirs, 1)
    assert found["scores"] == ([1.0, "inf"], None)
    assert found["ids"] == (list(range(100, 132)), None)
    assert (found["flag"], found["one"]) == (([False], None), ([3.0], None))
    assert found["name"] == (["\N{REPLACEMENT CHARACTER}" * 200], None)
    json.dumps(found, allow_nan=False)
