from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.versions import All, Latest, Specific, aspired, version_of


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("1", 1),
        ("00000123", 123),
        ("+7", 7),
        (" 7 ", 7),
        (str((1 << 63) - 1), (1 << 63) - 1),
        (str(1 << 63), None),
        ("-1", None),
        ("1.0", None),
        ("1_0", None),
        ("123_tmp", None),
        (".ladle-staging-1", None),
        ("", None),
        ("٣", None),
        ("9" * 100, None),
    ],
)
def test_a_folder_is_a_version_when_upstream_reads_a_number(name: str, version: int | None) -> None:
    assert version_of(name) == version


@given(name=st.text())
def test_any_name_gives_a_version_that_can_be_served_or_none(name: str) -> None:
    version = version_of(name)
    assert version is None or 0 <= version < 1 << 63


def test_the_policies_choose_their_versions() -> None:
    names = ["1", "2", "tmp", "10", "9"]

    assert aspired(names, Latest()) == {10: "10"}
    assert aspired(names, Latest(2)) == {9: "9", 10: "10"}
    assert aspired(names, Latest(99)) == {1: "1", 2: "2", 9: "9", 10: "10"}
    assert aspired(names, All()) == {1: "1", 2: "2", 9: "9", 10: "10"}
    assert aspired(names, Specific(frozenset({2, 3}))) == {2: "2"}
    assert aspired([], Latest()) == {}


def test_of_two_folders_for_one_version_the_later_name_counts() -> None:
    assert aspired(["1", "001"], Latest()) == {1: "1"}


def test_latest_takes_at_least_one_version() -> None:
    with pytest.raises(ValueError, match="expected at least 1 version, got 0"):
        Latest(0)
