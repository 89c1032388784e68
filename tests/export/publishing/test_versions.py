from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.export.publishing.versions import next_version, size_bytes
from ladle.protos.files.versions import MAX_VERSION, version_of


@given(st.sets(st.integers(0, MAX_VERSION - 1)), st.sets(st.text(max_size=8)))
def test_the_next_version_is_above_all_present_and_skips_none(
    versions: set[int], names: set[str]
) -> None:
    names = {name for name in names if version_of(name) is None}
    following = next_version(names | {str(version) for version in versions})
    assert following == max(versions, default=0) + 1


def test_the_next_version_looks_through_leading_zeros() -> None:
    assert next_version(["009", "10", "2", "README"]) == 11


def test_there_is_no_version_after_the_last() -> None:
    with pytest.raises(OverflowError, match=str(MAX_VERSION)):
        next_version([str(MAX_VERSION)])


def test_files_that_vanish_while_they_are_counted_have_no_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "data").write_bytes(b"weights")
    (tmp_path / "link").symlink_to("nowhere")
    assert size_bytes(tmp_path) == len("graph" + "weights" + "nowhere")
    look = os.lstat

    def look_too_late(path: str) -> os.stat_result:
        if path.endswith("data"):
            os.unlink(path)
        return look(path)

    monkeypatch.setattr(os, "lstat", look_too_late)
    assert size_bytes(tmp_path) == len("graph" + "nowhere")
    assert size_bytes(tmp_path / "gone") == 0
