from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.lifecycle.states import (
    Load,
    State,
    TransitionPolicy,
    Unload,
    VersionSnapshot,
    next_action,
    transition,
)

START, LOADING, AVAILABLE, UNLOADING, END = State

ASPIRED = True
UNWANTED = False


@pytest.mark.parametrize(
    ("versions", "availability_first", "resources_first"),
    [
        ([], None, None),
        ([(1, START, ASPIRED)], Load(1), Load(1)),
        ([(1, START, ASPIRED), (2, START, ASPIRED)], Load(2), Load(2)),
        ([(1, START, ASPIRED), (2, LOADING, ASPIRED)], None, None),
        ([(1, AVAILABLE, UNWANTED), (2, START, ASPIRED)], Load(2), Unload(1)),
        ([(1, UNLOADING, UNWANTED), (2, START, ASPIRED)], Load(2), None),
        ([(1, AVAILABLE, UNWANTED), (2, LOADING, ASPIRED)], None, Unload(1)),
        ([(1, AVAILABLE, UNWANTED), (2, AVAILABLE, ASPIRED)], Unload(1), Unload(1)),
        ([(1, AVAILABLE, UNWANTED), (2, END, ASPIRED)], None, Unload(1)),
        ([(1, AVAILABLE, UNWANTED)], Unload(1), Unload(1)),
        (
            [(1, AVAILABLE, UNWANTED), (2, AVAILABLE, UNWANTED), (3, START, ASPIRED)],
            Unload(1),
            Unload(1),
        ),
        ([(1, END, ASPIRED)], None, None),
        ([(1, AVAILABLE, ASPIRED)], None, None),
    ],
)
def test_the_policies_choose_one_action(
    versions: list[tuple[int, State, bool]],
    availability_first: Load | Unload | None,
    resources_first: Load | Unload | None,
) -> None:
    snapshots = [VersionSnapshot(*version) for version in versions]

    assert next_action(snapshots, "availability_preserving") == availability_first
    assert next_action(snapshots, "resource_preserving") == resources_first


snapshots = st.lists(
    st.builds(
        VersionSnapshot,
        st.integers(min_value=0, max_value=9),
        st.sampled_from(State),
        st.booleans(),
    ),
    unique_by=lambda snapshot: snapshot.version,
)


@given(versions=snapshots)
def test_the_last_available_version_goes_only_when_nothing_is_aspired(
    versions: list[VersionSnapshot],
) -> None:
    action = next_action(versions, "availability_preserving")
    available = {v.version for v in versions if v.state is AVAILABLE}

    if isinstance(action, Unload) and available == {action.version}:
        assert not any(v.aspired for v in versions)


@given(
    versions=snapshots, policy=st.sampled_from(["availability_preserving", "resource_preserving"])
)
def test_only_what_is_allowed_is_ever_asked_for(
    versions: list[VersionSnapshot], policy: TransitionPolicy
) -> None:
    by_version = {v.version: v for v in versions}
    match next_action(versions, policy):
        case Load(version=version):
            assert by_version[version].aspired
            assert by_version[version].state is START
            assert not any(v.state is LOADING for v in versions)
        case Unload(version=version):
            assert not by_version[version].aspired
            assert by_version[version].state is AVAILABLE


def test_a_version_only_goes_forward() -> None:
    allowed = {
        (START, LOADING),
        (START, END),
        (LOADING, AVAILABLE),
        (LOADING, END),
        (AVAILABLE, UNLOADING),
        (UNLOADING, END),
    }
    for before, after in itertools.product(State, State):
        if (before, after) in allowed:
            assert transition(before, after) is after
        else:
            with pytest.raises(AssertionError):
                transition(before, after)
