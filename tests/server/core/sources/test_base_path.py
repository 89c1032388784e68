from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ladle.protos.files.versions import without_versions
from ladle.server.core.sources.base_path import BasePath
from ladle.server.core.sources.version_policy import Latest


@pytest.mark.parametrize(
    ("path", "names", "says"),
    [
        ("/models/m", [], "no versions under base path /models/m: expected a folder"),
        ("/models/m", ["draft"], "no versions under base path /models/m: expected a folder"),
        ("/models/m/1", ["saved_model.pb", "variables"], "give its parent, /models/m"),
        ("/models/m/1", ["model.tflite"], "give its parent, /models/m"),
        ("/models/m", ["saved_model.pb"], "a folder whose name is a number, such as /models/m/1"),
    ],
)
def test_a_base_path_without_versions_says_what_to_give(
    path: str, names: list[str], says: str
) -> None:
    assert says in without_versions(Path(path), names)


def test_a_scan_says_what_each_wanted_version_lacks(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        (tmp_path / version).mkdir()
    lacks = {"2": "there is no saved_model.pb", "3": "it is cut short"}
    base = BasePath(tmp_path, lambda folder: lacks.get(folder.name))
    found = base.scan(Latest())
    assert found.wanted == {1: tmp_path / "1"}
    assert found.incomplete == {
        3: "version 3 is not whole: it is cut short",
        2: "version 2 is not whole: there is no saved_model.pb",
    }
    assert str(tmp_path) not in "".join(found.incomplete.values())


def test_what_a_version_lacks_says_not_where_it_lies(tmp_path: Path) -> None:
    looped = tmp_path / "m" / "1" / "saved_model.pb"
    looped.parent.mkdir(parents=True)

    def check(folder: Path) -> str | None:
        raise OSError(errno.ELOOP, "Too many levels of symbolic links", str(looped))

    (lack,) = BasePath(tmp_path / "m", check).scan(Latest()).incomplete.values()
    assert "'m/1/saved_model.pb'" in lack
    assert str(tmp_path) not in lack


def test_a_scan_says_when_labels_were_written(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    base = BasePath(tmp_path)
    assert base.scan(Latest()).labelled_s is None
    file = tmp_path / ".ladle-labels.json"
    file.write_text('{"canary": 1}')
    for written_s in (1_000, 2_000):
        os.utime(file, (written_s, written_s))
        assert base.scan(Latest()).labelled_s == written_s
    file.unlink()
    assert base.scan(Latest()).labelled_s is None
