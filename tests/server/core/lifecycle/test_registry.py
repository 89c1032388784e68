from __future__ import annotations

from pathlib import Path

import pytest

from ladle.server.core.errors import Code, InvalidArgument, ServingError
from ladle.server.core.lifecycle.registry import Registry
from ladle.server.core.lifecycle.states import Load, State, Unload

ONE = {1: Path("/m/1")}
TWO = {2: Path("/m/2")}
BAD = InvalidArgument("no good")


@pytest.fixture
def registry() -> Registry:
    return Registry("availability_preserving")


def go(registry: Registry, version: int, *states: State, error: ServingError | None = None) -> None:
    """Take a version of the model `m` through its states."""
    entry = registry.versions("m")[version]
    for state in states:
        if state is State.END:
            entry.end(error)
        else:
            entry.move(state)


def load(registry: Registry, version: int) -> None:
    go(registry, version, State.LOADING, State.AVAILABLE)


def fail(registry: Registry, version: int) -> None:
    go(registry, version, State.LOADING, State.END, error=BAD)


def test_saying_the_same_again_changes_nothing(registry: Registry) -> None:
    registry.expect("m")
    assert registry.aspire("m", ONE)
    assert not registry.aspire("m", ONE)
    load(registry, 1)
    assert not registry.aspire("m", ONE)
    assert registry.aspire("m", ONE | TWO)
    fail(registry, 2)
    assert not registry.aspire("m", ONE | TWO)
    assert registry.aspire("m", ONE)
    assert not registry.aspire("m", ONE)
    assert registry.aspire("m", ONE | TWO), "it was left out since it failed"


def test_what_is_next_follows_what_is_wanted(registry: Registry) -> None:
    registry.aspire("m", ONE)
    assert registry.next_action("m") == Load(1)
    load(registry, 1)
    registry.aspire("m", TWO)
    assert registry.next_action("m") == Load(2)
    load(registry, 2)
    assert registry.next_action("m") == Unload(1)
    go(registry, 1, State.UNLOADING, State.END)
    assert registry.next_action("m") is None
    assert registry.next_action("unknown") is None


def test_only_what_no_thread_could_load_begins_again_by_itself(registry: Registry) -> None:
    registry.aspire("m", ONE | TWO)
    go(registry, 1, State.END, error=BAD)
    fail(registry, 2)

    registry.tidy("m")

    assert {v: e.state for v, e in registry.versions("m").items()} == {1: State.START, 2: State.END}


def test_a_model_is_settled_once_nothing_of_it_is_on_the_way(registry: Registry) -> None:
    registry.expect("m")
    assert (registry.is_settled("m"), registry.is_coming("m")) == (False, True)
    registry.report("m", "copying", final=False)
    assert (registry.is_settled("m"), registry.is_coming("m")) == (False, True)
    registry.report("m", "nothing there", final=True)
    assert (registry.is_settled("m"), registry.is_coming("m")) == (True, False)
    registry.aspire("m", ONE)
    assert (registry.is_settled("m"), registry.is_coming("m")) == (False, True)
    load(registry, 1)
    assert (registry.is_settled("m"), registry.is_coming("m")) == (True, False)


@pytest.mark.parametrize("why", ["withdrawn", "no source", "failed", "stopped"])
def test_what_will_not_come_is_not_waited_for(registry: Registry, why: str) -> None:
    registry.expect("m")
    if why == "withdrawn":
        registry.withdraw("m")
    elif why == "no source":
        registry.source_stopped()
    elif why == "failed":
        registry.aspire("m", ONE)
        fail(registry, 1)
    else:
        registry.stop()

    assert not registry.is_coming("m")
    assert registry.is_settled("m") is (why != "stopped")


def test_a_version_that_is_tried_again_is_no_reason_to_wait(registry: Registry) -> None:
    registry.aspire("m", ONE)
    fail(registry, 1)
    assert registry.start_over(registry.versions("m")[1], attempt=1)

    assert not registry.is_coming("m")
    assert not registry.is_settled("m")


def test_only_what_has_failed_and_is_still_wanted_starts_over(registry: Registry) -> None:
    registry.aspire("m", ONE)
    first = registry.versions("m")[1]
    assert not registry.start_over(first), "it has not failed"
    fail(registry, 1)
    assert registry.start_over(first)
    assert not registry.start_over(first), "another stands for the version by now"
    fail(registry, 1)
    registry.stop()
    assert not registry.start_over(registry.versions("m")[1])


def test_a_version_that_is_wanted_again_while_it_unloads_begins_without_old_failures(
    registry: Registry,
) -> None:
    registry.aspire("m", ONE)
    fail(registry, 1)
    assert registry.start_over(registry.versions("m")[1], attempt=3)
    load(registry, 1)
    registry.aspire("m", TWO)
    go(registry, 1, State.UNLOADING)
    registry.aspire("m", ONE | TWO)
    go(registry, 1, State.END)

    registry.tidy("m")

    assert (registry.versions("m")[1].state, registry.versions("m")[1].attempt) == (State.START, 0)
    assert registry.is_coming("m")


def test_a_version_that_is_not_whole_says_what_it_lacks(registry: Registry) -> None:
    registry.expect("m")
    why = {3: "version 3 is not whole: there is no saved_model.pb"}
    assert registry.report("m", why[3], final=True, incomplete=why)
    assert not registry.report("m", why[3], final=True, incomplete=why)
    registry.aspire("m", {2: Path("/m/2")})
    statuses = registry.status("m")
    assert [(s.version, s.state) for s in statuses] == [(3, State.START), (2, State.START)]
    assert statuses[0].error is not None
    assert (statuses[0].error.code, statuses[0].error.message) == (Code.UNAVAILABLE, why[3])

    registry.aspire("m", {2: Path("/m/2"), 3: Path("/m/3")})
    assert registry.report("m", None, final=True)
    assert [s.error for s in registry.status("m")] == [None, None]
