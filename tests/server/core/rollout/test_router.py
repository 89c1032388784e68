"""A split holds its percentage, sticks to keys, and is the same on every server."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from fakes import TIMEOUT_S, FakeLoader, until
from hypothesis import given
from hypothesis import strategies as st

from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import ServingMap
from ladle.server.core.rollout.router import Router, Share
from ladle.server.core.rollout.split import (
    BUCKETS,
    Rollout,
    Steps,
    bucket_of,
    buckets_at,
    canary_version,
    salted,
    stable_version,
)

KEYS = [f"user-{number}" for number in range(10_000)]
LABELS = st.dictionaries(st.sampled_from(["stable", "canary"]), st.integers(1, 4))


@pytest.mark.parametrize("percent", [1, 5, 25, 50, 99])
def test_a_split_of_many_keys_is_what_was_asked_for(percent: int) -> None:
    salts = ("digits", "fashion", "prices", "a", "b")
    part = sum(bucket_of(salted(s), key) < percent * BUCKETS // 100 for s in salts for key in KEYS)
    assert abs(part / len(KEYS) / len(salts) - percent / 100) < 0.01


def test_a_key_has_its_bucket_for_ever() -> None:
    # Written down: another number would be another split after an update of one server.
    found = [bucket_of(salted("digits"), key) for key in ("a", "b", "user-7", "é", "")]
    assert found == [8466, 3362, 6614, 6986, 8395]
    assert bucket_of(salted("digits"), "user-1") == 7721
    assert bucket_of(salted("other"), "user-1") != bucket_of(salted("digits"), "user-1")


@given(LABELS, st.frozensets(st.integers(1, 4)))
def test_there_is_an_answer_while_any_version_is_there(
    labels: Mapping[str, int], available: Collection[int]
) -> None:
    rollout = Rollout(model="m", canary_label="canary", canary_buckets=1)
    stable = stable_version(rollout, labels, available)
    canary = canary_version(rollout, labels, available)
    assert (stable is not None) == bool(available)
    if labels.get("stable") in available:
        assert stable == labels["stable"]
    elif len(available) > 1 or canary is None:
        assert stable != canary or not available
    assert canary in (None, labels.get("canary"))
    assert canary is None or canary in available


@given(
    st.lists(st.integers(0, BUCKETS), min_size=1, max_size=5, unique=True).map(sorted),
    st.floats(1, 1e6),
    st.floats(-1e9, 1e9),
    st.floats(0, 1e9),
)
def test_steps_follow_each_other_and_never_go_back(
    buckets: list[int], hold_s: float, since_s: float, later_s: float
) -> None:
    steps = Steps(buckets=tuple(buckets), hold_s=hold_s)
    assert buckets_at(steps, None) == buckets[0]
    assert buckets_at(steps, since_s) <= buckets_at(steps, since_s + later_s)
    for number, expected in enumerate(buckets):
        assert buckets_at(steps, (number + 0.5) * hold_s) == expected
    assert buckets_at(steps, len(buckets) * hold_s * 10) == buckets[-1]


class Harness:
    def __init__(self, versions: int = 3) -> None:
        self.serving = ServingMap()
        self.manager = Manager(FakeLoader(), serving=self.serving)
        self.manager.aspire("m", {version: Path() for version in range(1, versions + 1)})
        until(lambda: self.manager.is_available("m", versions))
        until(lambda: all(self.manager.is_available("m", v) for v in range(1, versions + 1)))
        self.router = self.manager.router

    def split(self, percent: float) -> None:
        self.router.replace(
            [
                Rollout(
                    model="m",
                    canary_label="canary",
                    canary_buckets=round(percent * 100),
                    key_name="x-user-id",
                    salt="m",
                )
            ]
        )

    def chosen(self, key: str | None) -> int | None:
        return self.router.choose("m", {"x-user-id": key}.get)


@pytest.fixture
def there() -> Harness:
    return Harness()


def test_keys_stick_on_all_servers_and_while_the_share_grows() -> None:
    servers = [Harness(), Harness()]
    for server in servers:
        server.manager.set_labels({"m": {"stable": 1, "canary": 2}})
        server.split(5)
    first, second = ([server.chosen(key) for key in KEYS] for server in servers)
    assert first == second
    at_five = {key for key, version in zip(KEYS, first, strict=True) if version == 2}
    assert abs(len(at_five) / len(KEYS) - 0.05) < 0.01
    servers[0].split(25)
    at_more = {key for key in KEYS if servers[0].chosen(key) == 2}
    assert at_five < at_more
    for server in servers:
        server.manager.stop(TIMEOUT_S)


def test_a_new_version_gets_nothing_before_it_has_a_label(there: Harness) -> None:
    there.manager.set_labels({"m": {"stable": 1}})
    there.split(50)
    assert {there.chosen(key) for key in KEYS[:100]} == {1}
    assert there.router.choose("m") == 1
    assert there.router.shares("m") == (Share("stable", 1, 1.0),)


def test_a_canary_that_is_not_there_leaves_its_share_to_stable(there: Harness) -> None:
    there.manager.set_labels({"m": {"stable": 1, "canary": 9}})
    there.split(100)
    assert {there.chosen(key) for key in KEYS[:100]} == {1}
    there.manager.set_labels({"m": {"stable": 1, "canary": 3}})
    assert {there.chosen(key) for key in KEYS[:100]} == {3}
    # Without requests that run, as for metadata, the stable version is the model.
    assert there.router.choose("m") == 1
    assert there.router.shares("m") == (Share("stable", 1, 0.0), Share("canary", 3, 1.0))


def test_without_stable_the_highest_that_is_not_on_trial_answers(there: Harness) -> None:
    there.manager.set_labels({"m": {"canary": 3}})
    there.split(0)
    assert there.chosen("a") == 2


def test_without_a_key_chance_decides_and_it_is_counted(there: Harness) -> None:
    there.manager.set_labels({"m": {"stable": 1, "canary": 2}})
    router = Router(there.serving, random.Random(1).randrange)
    router.replace(
        [Rollout(model="m", canary_label="canary", canary_buckets=2_500, key_name="x-user-id")]
    )
    found = [router.choose("m", lambda _name: None) for _ in range(4_000)]
    assert abs(found.count(2) / len(found) - 0.25) < 0.03
    assert router.keyless() == {"m": 4_000}


def test_a_choice_follows_labels_versions_holds_and_shares_at_once(there: Harness) -> None:
    there.manager.set_labels({"m": {"stable": 1, "canary": 2}})
    there.split(100)
    assert there.chosen("a") == 2
    there.manager.set_labels({"m": {"stable": 1, "canary": 3}})
    assert there.chosen("a") == 3
    there.router.hold("m", 3, "it fails")
    assert there.chosen("a") == 1
    there.router.release("m")
    assert there.chosen("a") == 3
    rollout = there.router.rollouts["m"]
    there.router.give(rollout, 0)
    assert there.chosen("a") == 1
    there.router.give(rollout, BUCKETS)  # of what is no longer in force
    assert there.chosen("a") == 1
    there.split(100)
    there.manager.aspire("m", {1: Path(), 2: Path()})
    until(lambda: not there.manager.is_available("m", 3))
    assert there.chosen("a") == 1


def test_models_without_a_rollout_are_left_alone(there: Harness) -> None:
    there.split(50)
    assert there.router.choose("other", lambda _name: "x") is None
    there.router.replace([])
    assert there.chosen("a") is None
    assert there.router.shares("m") == ()
