from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.protos.files.versions import MAX_VERSION, version_of


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


def test_a_name_of_thousands_of_digits_is_no_version() -> None:
    """Python refuses to read such a number, and a file system may hold such a name."""
    assert version_of("1" * 5000) is None
    assert version_of("0" * 5000 + "7") == 7
