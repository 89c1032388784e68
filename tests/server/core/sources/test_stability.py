from __future__ import annotations

import os
from pathlib import Path

import pytest

from ladle.server.core.sources.stability import Look, Rest, is_settled, look_at, observe

A, B = Look(1, 100.0), Look(2, 100.0)


def test_a_look_tells_names_sizes_and_times_apart(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    looks = [look_at(folder)]
    (folder / "a").write_text("x")
    looks.append(look_at(folder))
    assert look_at(folder) == looks[-1]
    (folder / "a").write_text("xy")
    looks.append(look_at(folder))
    (folder / "a").rename(folder / "variables" / "a")
    looks.append(look_at(folder))
    os.utime(folder / "variables" / "a", (4e9, 4e9))
    looks.append(look_at(folder))

    assert len({look.fingerprint for look in looks}) == len(looks)
    assert looks[-1].newest_change_s == 4e9


def test_old_times_that_a_copy_keeps_do_not_hide_that_it_is_new(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "a").write_text("x")
    os.utime(folder / "a", (0, 0))
    os.utime(folder, (0, 0))

    assert look_at(folder).newest_change_s > 1e9


def test_renaming_a_finished_folder_into_place_is_no_change(tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()
    before = look_at(tmp_path / "staged")

    assert look_at((tmp_path / "staged").rename(tmp_path / "1")) == before


def test_a_folder_that_can_not_be_looked_at_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        look_at(tmp_path / "1")
    deep = tmp_path / "/".join("abcdefghij")
    deep.mkdir(parents=True)
    with pytest.raises(OSError, match="8 deep"):
        look_at(tmp_path)


def test_rest_begins_anew_with_each_change() -> None:
    first = observe(None, A, 10.0)
    assert first == Rest(A, 10.0, seen_changing=False)
    assert observe(first, A, 11.0) is first
    assert observe(first, B, 12.0) == Rest(B, 12.0, seen_changing=True)


@pytest.mark.parametrize(
    ("rest", "now_s", "wall_s", "settled"),
    [
        pytest.param(Rest(A, 10.0, False), 10.0, 100.5, False, id="changed half a second ago"),
        pytest.param(Rest(A, 10.0, False), 10.0, 101.0, True, id="long there at the first look"),
        pytest.param(Rest(A, 10.0, False), 11.0, 50.0, True, id="seen at rest, clocks differ"),
        pytest.param(Rest(A, 10.0, True), 10.5, 999.0, False, id="seen changing, times are old"),
        pytest.param(Rest(A, 10.0, True), 11.0, 50.0, True, id="seen changing, then at rest"),
    ],
)
def test_settled_is_what_has_not_changed_for_a_moment(
    rest: Rest, now_s: float, wall_s: float, settled: bool
) -> None:
    assert is_settled(rest, 1.0, now_s=now_s, wall_s=wall_s) is settled
