from __future__ import annotations

import pytest

from ladle.server.core.sources.version_policy import (
    All,
    Latest,
    Specific,
    VersionPolicy,
    aspired,
    effective_labels,
    next_aspired,
    numbered,
)


def test_the_policies_choose_their_versions() -> None:
    names = numbered(["1", "2", "tmp", "10", "9"])

    assert aspired(names, Latest()) == {10: "10"}
    assert aspired(names, Latest(2)) == {9: "9", 10: "10"}
    assert aspired(names, Latest(99)) == {1: "1", 2: "2", 9: "9", 10: "10"}
    assert aspired(names, All()) == {1: "1", 2: "2", 9: "9", 10: "10"}
    assert aspired(names, Specific(frozenset({2, 3}))) == {2: "2"}
    assert aspired({}, Latest()) == {}


def test_of_two_folders_for_one_version_the_later_name_counts() -> None:
    assert numbered(["1", "001"]) == {1: "1"}


def test_latest_takes_at_least_one_version() -> None:
    with pytest.raises(ValueError, match="expected at least 1 version, got 0"):
        Latest(0)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(Latest(), {2: "2"}), (Latest(2), {1: "1", 2: "2"}), (All(), {1: "1", 2: "2"})],
)
def test_a_version_counts_once_it_is_whole(policy: VersionPolicy, expected: dict[int, str]) -> None:
    assert aspired(numbered(["1", "2", "3"]), policy, lambda version: version != 3) == expected


def test_labelled_versions_are_wanted_beside_the_latest() -> None:
    names = numbered(["1", "2", "3", "4"])
    assert aspired(names, Latest(), labelled=[2, 9]) == {2: "2", 4: "4"}
    assert aspired(names, Latest(), labelled=[4]) == {4: "4"}
    assert aspired(names, Latest(), lambda v: v != 2, labelled=[1, 2]) == {1: "1", 4: "4"}
    assert aspired(names, Specific(frozenset({3})), labelled=[2]) == {3: "3"}
    assert aspired({}, Latest(), labelled=[2]) == {}


def test_no_more_versions_are_looked_at_than_it_takes() -> None:
    """A base path may hold thousands of old ones."""
    asked: list[int] = []

    aspired(numbered(map(str, range(1000))), Latest(2), lambda v: asked.append(v) or v != 999)  # type: ignore[func-returns-value]

    assert asked == [999, 998, 997]


ONLY_7 = Specific(frozenset({7}))


@pytest.mark.parametrize(
    ("names", "policy", "whole", "current", "expected"),
    [
        pytest.param(["1"], Latest(), {1: "1"}, set(), {1: "1"}, id="whole ones are aspired"),
        pytest.param(["2"], Latest(), {}, {1}, None, id="the next is on its way: 1 stays"),
        pytest.param([], Latest(), {}, {1}, {}, id="every folder was taken away"),
        pytest.param([], Latest(), {}, set(), None, id="nothing came from this base path yet"),
        pytest.param(["1"], ONLY_7, {}, {1}, {1: "1"}, id="7 is not there yet: 1 stays"),
        pytest.param(["1", "7"], ONLY_7, {}, {1}, None, id="7 is on its way: 1 stays"),
        pytest.param(["8"], ONLY_7, {}, {7}, {}, id="7 was taken away"),
        pytest.param(["1"], Specific(frozenset()), {}, {1}, {}, id="the policy names none"),
    ],
)
def test_a_model_is_withdrawn_only_by_taking_it_away(
    names: list[str],
    policy: VersionPolicy,
    whole: dict[int, str],
    current: set[int],
    expected: dict[int, str] | None,
) -> None:
    assert next_aspired(numbered(names), policy, whole, current) == expected


@pytest.mark.parametrize(
    ("wanted", "current", "available", "expected"),
    [
        ({"a": 1}, {}, {1}, {"a": 1}),
        ({"a": 2}, {}, {1}, {}),
        ({"a": 2}, {"a": 1}, {1}, {"a": 1}),
        ({"a": 2}, {"a": 1}, {1, 2}, {"a": 2}),
        ({"a": 2}, {"a": 1}, {3}, {}),
        ({}, {"a": 1}, {1}, {}),
    ],
)
def test_a_label_moves_once_its_version_is_available(
    wanted: dict[str, int], current: dict[str, int], available: set[int], expected: dict[str, int]
) -> None:
    assert effective_labels(wanted, current, available.__contains__) == expected
