from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.export.versions import next_version
from ladle.protos.versions import MAX_VERSION, version_of


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
