from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.export.versions import MAX_VERSION, next_version, version_of


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("0", 0),
        ("1", 1),
        ("00000123", 123),
        ("+7", 7),
        (" 7\n", 7),
        (str(MAX_VERSION), MAX_VERSION),
    ],
)
def test_a_name_that_upstream_reads_as_a_number_is_that_version(name: str, version: int) -> None:
    assert version_of(name) == version


@pytest.mark.parametrize(
    "name",
    [
        *("", "tmp", "1.0", ".5", "123_tmp", ".ladle-staging-1-ab", "0x10", "1e3"),
        *("1_000", "-1", "-0", "+", "+ 1", "\u0663", "\u00a01", str(MAX_VERSION + 1)),
    ],
)
def test_any_other_name_is_no_version(name: str) -> None:
    assert version_of(name) is None


@given(st.integers(0, MAX_VERSION), st.integers(0, 5), st.sampled_from(["", " ", "\t"]))
def test_leading_zeros_and_white_space_change_nothing(number: int, zeros: int, space: str) -> None:
    assert version_of(f"{space}{'0' * zeros}{number}{space}") == number


@given(st.text(max_size=30))
def test_what_is_parsed_was_ascii_digits(name: str) -> None:
    version = version_of(name)
    if version is not None:
        assert name.strip(" \t\n\v\f\r").lstrip("+").lstrip("0") in (str(version), "")


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
