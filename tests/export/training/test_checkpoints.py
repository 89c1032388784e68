"""What a stopped training leaves, and what is never touched; a stand-in takes Keras's place."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ladle.export import ExportError
from ladle.export.training.checkpoints import Checkpoints


class FakeModel:
    """Keeps its state, a text, as a Keras model does its weights."""

    def __init__(self, state: str = "") -> None:
        self.state = state
        self.optimizer = self
        self.trainable_variables = None
        self.failure: Exception | None = None

    def build(self, variables: Any) -> None:
        pass

    def save_weights(self, path: Path, *, overwrite: bool) -> None:
        assert overwrite
        path.write_text(self.state)
        if self.failure is not None:
            raise self.failure

    def load_weights(self, path: Path) -> None:
        self.state = path.read_text()
        if not self.state:
            raise OSError("Unable to open file\n(truncated file)")


def test_what_was_kept_last_is_gone_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "deep" / "state")
    assert checkpoints.restore(FakeModel()) == 0
    for epoch in (9, 10):
        checkpoints.save(FakeModel(f"of {epoch}"), epoch)
    resumed = FakeModel()
    assert Checkpoints(tmp_path / "deep" / "state").restore(resumed) == 10
    assert resumed.state == "of 10"


def test_only_our_own_files_are_removed(tmp_path: Path) -> None:
    theirs = {
        "thesis.tex": "years of work",
        "epoch-1.weights.h5": "theirs",
        "runs/latest.weights.h5": "theirs",
        "ladle-training/notes": "of somebody who looked",
    }
    for name, text in theirs.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(FakeModel("state"), 1)
    checkpoints.save(FakeModel("state"), 2)
    checkpoints.finish()
    left = {
        str(path.relative_to(tmp_path)): path.read_text()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert left == theirs
    (tmp_path / "ladle-training/notes").unlink()
    Checkpoints(tmp_path).finish()
    assert not (tmp_path / "ladle-training").exists()


@pytest.mark.parametrize("version", [".", "7"])
def test_what_is_served_is_no_folder_for_checkpoints(tmp_path: Path, version: str) -> None:
    (tmp_path / version).mkdir(exist_ok=True)
    (tmp_path / version / "saved_model.pb").write_text("")
    with pytest.raises(ExportError, match=r"^checkpoint dir: expected .*holds what is served$"):
        Checkpoints(tmp_path)
    assert not (tmp_path / "ladle-training").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"checkpoint dir: cannot write into .*: Not a directory"):
        Checkpoints(tmp_path / "file")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (RuntimeError("Can't decrement id\nref count"), "Can't decrement id ref count"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_what_was_kept(
    tmp_path: Path, failure: Exception, reason: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(FakeModel("whole"), 1)
    model = FakeModel("half")
    model.failure = failure
    expected = f"^checkpoint dir: cannot write into {tmp_path}: {re.escape(reason)}$"
    with pytest.raises(ExportError, match=expected):
        checkpoints.save(model, 2)
    assert [path.name for path in (tmp_path / "ladle-training").iterdir()] == ["epoch-1.weights.h5"]


def test_one_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(FakeModel("whole"), 1)
    (tmp_path / "ladle-training" / "unfinished.weights.h5").write_text("ha")
    resumed = FakeModel()
    assert checkpoints.restore(resumed) == 1
    assert resumed.state == "whole"


def test_a_damaged_one_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(FakeModel(""), 3)
    with pytest.raises(ExportError, match=r"epoch-3.*: Unable to open file \(.*remove it to begin"):
        checkpoints.restore(FakeModel())
