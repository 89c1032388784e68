from __future__ import annotations

import os
from pathlib import Path

import pytest

from ladle.server.core.sources.stability import (
    FolderScan,
    Stability,
    is_stable,
    observe,
    scan_folder,
)

A, B = FolderScan(1, 100.0), FolderScan(2, 100.0)


def test_a_look_tells_names_sizes_and_times_apart(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    scans = [scan_folder(folder)]
    (folder / "a").write_text("x")
    scans.append(scan_folder(folder))
    assert scan_folder(folder) == scans[-1]
    (folder / "a").write_text("xy")
    scans.append(scan_folder(folder))
    (folder / "a").rename(folder / "variables" / "a")
    scans.append(scan_folder(folder))
    os.utime(folder / "variables" / "a", (4e9, 4e9))
    scans.append(scan_folder(folder))

    assert len({scan.fingerprint for scan in scans}) == len(scans)
    assert scans[-1].newest_change_s == 4e9


def test_old_times_that_a_copy_keeps_do_not_hide_that_it_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "a").write_text("x")
    os.utime(folder / "a", (0, 0))
    os.utime(folder, (0, 0))

    assert scan_folder(folder).newest_change_s > 1e9


def test_renaming_a_finished_folder_into_place_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    before = scan_folder(tmp_path / "staged")

    assert scan_folder((tmp_path / "staged").rename(tmp_path / "1")) == before


def test_a_folder_that_can_not_be_looked_at_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan_folder(tmp_path / "1")
    deep = tmp_path / "/".join("abcdefghij")
    deep.mkdir(parents=True)
    with pytest.raises(OSError, match="8 deep"):
        scan_folder(tmp_path)


def test_rest_begins_anew_with_each_change() -> None:
    first = observe(None, A, 10.0)
    assert first == Stability(A, 10.0, seen_changing=False)
    assert observe(first, A, 11.0) is first
    assert observe(first, B, 12.0) == Stability(B, 12.0, seen_changing=True)


@pytest.mark.parametrize(
    ("stability", "now_s", "wall_s", "settled"),
    [
        pytest.param(Stability(A, 10.0, False), 10.0, 100.5, False, id="changed half a second ago"),
        pytest.param(
            Stability(A, 10.0, False), 10.0, 101.0, True, id="long there at the first scan"
        ),
        pytest.param(Stability(A, 10.0, False), 11.0, 50.0, True, id="seen stable, clocks differ"),
        pytest.param(
            Stability(A, 10.0, True), 10.5, 999.0, False, id="seen changing, times are old"
        ),
        pytest.param(Stability(A, 10.0, True), 11.0, 50.0, True, id="seen changing, then stable"),
    ],
)
def test_settled_is_what_has_not_changed_for_a_moment(
    stability: Stability, now_s: float, wall_s: float, settled: bool
) -> None:
    assert is_stable(stability, 1.0, now_s=now_s, wall_s=wall_s) is settled
